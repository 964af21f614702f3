"""The page of probable label errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from panformer_cli.data.structures import Segment
from panformer_cli.metrics.analysis.label_errors import Kind, Suspect
from panformer_cli.pages.label_errors import LabelErrorPage, SuspectFigure, write_label_error_page
from tests.browser import Browser
from tests.pages.html import NASTY, Html

SEGMENT = Segment(5, 1, 4, (0, 0, 2, 2), score=0.9)
SUSPECT = Suspect(
    1, "a.jpg", Kind.WRONG_CLASS, 0.8, 0.5, (SEGMENT,), (replace(SEGMENT, id=7),), (0, 0, 2, 2), "Because."
)


def page_of(*kinds: Kind, name: str = "a.jpg", total: int | None = None) -> LabelErrorPage:
    figures = [
        SuspectFigure(f"images/{rank}.jpg", (30, 90), rank, replace(SUSPECT, kind=kind, file_name=name, reason=name))
        for rank, kind in enumerate(kinds, start=1)
    ]
    counts = {kind.value: kinds.count(kind) for kind in Kind}
    counts["surplus_label"] += (total or len(kinds)) - len(kinds)
    return LabelErrorPage([("Annotation", name)], counts, figures)


def written(tmp_path: Path, page: LabelErrorPage) -> Html:
    write_label_error_page(tmp_path / "index.html", page)
    return Html.of_file(tmp_path / "index.html")


def test_a_figure_has_rank_kind_reason_score_and_segments(tmp_path: Path) -> None:
    page = written(tmp_path, replace(page_of(), figures=[SuspectFigure("images/1.jpg", (30, 90), 1, SUSPECT)]))
    assert page.all("img")[0] == {
        "loading": "lazy",
        "src": "images/1.jpg",
        "alt": "1. Wrong class: a.jpg",
        "width": "90",
        "height": "30",
    }
    assert "Because." in page.text
    assert "Score 0.40. Segments in the annotation: 5; in the prediction: 7" in page.text


def test_the_number_of_each_kind(tmp_path: Path) -> None:
    page = written(tmp_path, page_of(Kind.WRONG_CLASS, Kind.WRONG_CLASS, Kind.POOR_OUTLINE, total=1203))
    for text in ("All 1,203", "Wrong class 2", "Poor outline 1", "Surplus label 1,200", "Merged instances 0"):
        assert text in " ".join(page.text.split())
    assert "The page shows the first 3 of 1,203; label_errors.json has all of them." in page.text
    disabled = [button["data-kind"] for button in page.all("button") if "disabled" in button]
    assert disabled == ["missing_annotation", "merged_instances", "split_instance"]


def test_names_are_escaped(tmp_path: Path) -> None:
    page = written(tmp_path, page_of(Kind.WRONG_CLASS, name=NASTY))
    assert len(page.all("script")) == 1 and page.text.count(NASTY) == 3


@pytest.fixture
def browser(started: Browser) -> Iterator[Browser]:
    """A browser whose console must be empty after the test."""
    yield started
    assert started.problems == []


@pytest.mark.slow
def test_a_button_shows_one_kind_and_arrow_keys_skip_the_others(browser: Browser, tmp_path: Path) -> None:
    page = page_of(Kind.WRONG_CLASS, Kind.POOR_OUTLINE, Kind.WRONG_CLASS)
    for figure in page.figures:
        (tmp_path / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / figure.path), np.full((30, 90, 3), 90, np.uint8))
    write_label_error_page(tmp_path / "index.html", page)
    browser.open(tmp_path / "index.html", (390, 844), "dark")
    shown = "[...document.querySelectorAll('figure b')].filter(b => b.checkVisibility()).map(b => b.textContent)"
    assert len(browser.run(shown)) == 3
    browser.click("[data-kind=wrong_class]")
    assert browser.run(shown) == ["1. Wrong class: a.jpg", "3. Wrong class: a.jpg"]
    browser.click("figure a")
    browser.press("ArrowRight")
    assert browser.run("document.querySelector('dialog div').textContent") == "3. Wrong class: a.jpg  (2 of 2)"
    size = "(box => [box.width, box.height])(document.querySelector('dialog img').getBoundingClientRect())"
    width, height = browser.run(size)
    assert width <= 2 * 90 and height <= 2 * 30, "at most twice its size"
    browser.click("dialog img")
    browser.click("[data-kind='']")
    assert len(browser.run(shown)) == 3
    assert browser.run("document.querySelector('[aria-pressed=true]').textContent") == "All 3"
    assert browser.run("document.documentElement.scrollWidth") <= 390
