"""The pages of `visualize` and `prepare-data` in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from panformer_cli.pages.gallery.page import write_gallery
from panformer_cli.pages.summary import write_summary
from tests.browser import Browser
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
    samples = []
    for number in range(12):
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), np.full((300, 400, 3), 90, np.uint8))
        samples.append({"file_name": f"{number}.jpg", "path": f"{number}.jpg", "segments": 2, "size": [300, 400]})
    write_summary(tmp_path / "summary.html", "data", {"train": {**split_summary("cat"), "samples": samples}})
    columns = "new Set([...document.querySelectorAll('figure')].map(f => f.getBoundingClientRect().left)).size"
    for width, expected in ((390, 2), (1800, 6)):
        browser.open(tmp_path / "summary.html", (width, 900))
        assert browser.run(columns) == expected
        assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.querySelector('.gallery').getBoundingClientRect().width") > 1700
    browser.click("figure:nth-child(2) a")
    assert browser.run("document.querySelector('dialog div').textContent") == "1.jpg  (2 of 12)"


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
