"""The pages of `visualize` and `prepare-data` in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.pages.gallery.images import write_image
from panformer_cli.pages.gallery.layers import ShownMap
from panformer_cli.pages.gallery.page import write_gallery
from panformer_cli.pages.summary import write_summary
from tests.browser import Browser
from tests.pages.gallery_actions import cards, low_contrast, open_card, point_at
from tests.pages.samples import gallery_page, split_summary

pytestmark = pytest.mark.slow  # a browser takes seconds to start


@pytest.fixture
def browser(started: Browser) -> Iterator[Browser]:
    """A browser whose console must be empty after the test; violations of the security policy are reported there."""
    yield started
    assert started.problems == []


def test_colors_and_curves_are_drawn(browser: Browser, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), np.full((30, 40, 3), 90, np.uint8))
    write_gallery(tmp_path / "index.html", gallery_page(path="a.jpg"))
    browser.open(tmp_path / "index.html")
    assert browser.run("getComputedStyle(document.querySelector('.swatch rect')).fill") == "rgb(1, 2, 3)"
    assert browser.run("getComputedStyle(document.querySelector('polyline')).stroke") == "rgb(11, 98, 196)"


def test_samples_fit_a_phone_and_use_a_wide_page(browser: Browser, tmp_path: Path) -> None:
    """The second split is of an earlier version, which wrote only drawings."""
    table = CategoryTable([Category(0, "cat", True), Category(1, "sky", False)])
    panoptic = PanopticMap(np.full((300, 400), 1, np.int32), (Segment(1, 0, 120_000, (0, 0, 400, 300)),))
    new, old = [], []
    for number in range(12):
        pixels, shown = np.full((300, 400, 3), 90, np.uint8), [ShownMap.of("Annotation", panoptic, table)]
        viewer = write_image(tmp_path, str(number), f"{number}.jpg", pixels, shown).to_json()
        row = {"file_name": f"{number}.jpg", "path": f"images/large/{number}.jpg", "segments": 1, "size": [300, 400]}
        new.append({**row, "viewer": viewer})
        old.append(row)
    splits = {"train": {**split_summary("cat"), "samples": new}, "val": {**split_summary("cat"), "samples": old}}
    write_summary(tmp_path / "summary.html", "data", splits)
    columns = "new Set([...document.querySelectorAll('.cards-grid li')].map(f => f.getBoundingClientRect().left)).size"
    for width, expected in ((390, 2), (1800, 7)):
        browser.open(tmp_path / "summary.html", (width, 900))
        assert browser.run(columns) == expected
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert low_contrast(browser) == []
    assert browser.run("document.querySelector('.cards-grid').getBoundingClientRect().width") > 1700
    open_card(browser, 1)
    assert browser.run("document.getElementById('viewer-place').textContent") == "2 of 12"
    assert point_at(browser, 200, 150) == "cat, 120,000 pixels"
    browser.press("Escape")
    assert cards(browser) == 2 * [f"{number}.jpg" for number in range(12)]
    assert browser.run("[...document.querySelectorAll('[data-image]')].filter(card => card.disabled).length") == 12


def test_the_summary_can_be_sorted_and_follows_the_dark_mode(browser: Browser, tmp_path: Path) -> None:
    write_summary(tmp_path / "summary.html", "data", {"train": split_summary("cat")})
    browser.open(tmp_path / "summary.html", (390, 844), "dark")
    names = "[...document.querySelector('table').tBodies[0].rows].map(row => row.cells[0].textContent)"
    assert browser.run(names) == ["cat", "sky"]
    browser.click("th:nth-child(3) button")
    browser.click("th:nth-child(3) button")
    assert browser.run(names) == ["sky", "cat"]
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
