"""The report in a real browser: loading, sorting, filtering, toggling layers and naming segments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from panformer_cli.pages.report.images import ImageScore
from panformer_cli.pages.report.page import ReportPage, write_report_page
from tests.browser import Browser
from tests.engine.evaluation.test_report import Evaluated
from tests.pages.gallery_actions import cards, click_at, color_at, low_contrast, open_card, point_at, wait_for

pytestmark = pytest.mark.slow  # a browser takes seconds to start

ALL_IMAGES = "document.querySelector('#part-all-images table')"
MISSED, FALSE, DIFFERS = [45, 125, 255, 255], [255, 92, 20, 255], [255, 214, 0, 255]
"""Colors of errors."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return Evaluated(folder).write(folder / "out")


@pytest.fixture
def browser(started: Browser, page: Path) -> Iterator[Browser]:
    """Open the page; after the test its console must be empty."""
    started.open(page)
    yield started
    assert started.problems == []


def names(browser: Browser) -> list[str]:
    """Return the visible rows of the list of images."""
    found: list[str] = browser.run(
        f"[...{ALL_IMAGES}.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[0].textContent)"
    )
    return found


def test_images_load_from_disk(browser: Browser) -> None:
    assert cards(browser) == ["1.png", "2.png", "0.png"]
    browser.run("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
    browser.run("document.getElementById('part-images').scrollIntoView()")
    wait_for(browser, "document.images.length === 6 && [...document.images].every(image => image.naturalWidth > 0)")


def test_a_click_on_a_heading_sorts(browser: Browser) -> None:
    assert names(browser) == ["0.png", "1.png", "2.png"]
    header = "#part-all-images th:nth-child(3)"  # lost
    browser.click(f"{header} button")
    assert names(browser) == ["1.png", "2.png", "0.png"]
    assert browser.run(f"document.querySelector('{header}').getAttribute('aria-sort')") == "descending"
    browser.run(f"document.querySelector('{header} button').focus()")
    browser.press("Enter")
    assert names(browser) == ["0.png", "2.png", "1.png"]
    browser.click("#part-all-images th:nth-child(1) button")
    assert names(browser) == ["0.png", "1.png", "2.png"]
    assert browser.run("document.querySelectorAll('#part-all-images [aria-sort]').length") == 1


def test_a_text_filters_rows(browser: Browser) -> None:
    # a short table has no filter box, so add the one of a long table
    browser.run(
        f"{ALL_IMAGES}.closest('.table').insertAdjacentHTML('afterbegin', "
        "'<p class=filter><input type=search><output></output></p>')"
    )
    browser.run("document.querySelector('#part-all-images input').focus()")
    browser.press("2")
    browser.press(".")
    assert names(browser) == ["2.png"]
    assert browser.run("document.querySelector('#part-all-images output').textContent") == "1 of 3 rows"


@pytest.fixture(scope="module")
def long_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a page of 1500 images; image k has k + 1 missed segments."""
    scores = [ImageScore(k, f"{k}.jpg", 0, 0, k + 1, (k + 1) / 2, 0.0) for k in range(1500)]
    path = tmp_path_factory.mktemp("long") / "index.html"
    write_report_page(path, ReportPage("long", [], [], [], scores, [""] * 1500))
    return path


def test_a_long_list_shows_its_first_rows(started: Browser, long_page: Path) -> None:
    started.open(long_page)
    assert names(started) == [f"{k}.jpg" for k in range(200)]
    started.click(".more")
    assert len(names(started)) == 1000
    started.click("#part-all-images th:nth-child(6) button")
    assert names(started)[:2] == ["1499.jpg", "1498.jpg"]
    started.click(".more")
    assert len(names(started)) == 1500 and not started.run("document.querySelectorAll('.more').length")
    started.run("document.querySelector('#part-all-images input').focus()")
    for key in "77.j":
        started.press(key)
    assert names(started) == [f"{100 * k + 77}.jpg" for k in reversed(range(15))]
    assert started.problems == []


def test_layers_toggle_by_key_and_by_click(browser: Browser) -> None:
    open_card(browser, 0)
    shown = "view.panes.map(pane => pane.figure.checkVisibility())"
    assert browser.run(shown) == [True, True]
    browser.press("g")
    assert browser.run(shown) == [False, True]
    browser.click("[data-layer=prediction]")
    browser.press("g")
    assert browser.run(shown) == [True, False]
    browser.press("i")
    assert browser.run("view.panes[0].parts.photo.checkVisibility()") is False
    for key in "ip":
        browser.press(key)


def test_errors_show_what_was_evaluated(browser: Browser) -> None:
    open_card(browser, 0)
    # the box of image 1 is predicted as a ball: the box is missed, and the ball is false
    assert color_at(browser, "fill", 15, 10, 0) == MISSED and color_at(browser, "fill", 15, 10, 1) == FALSE
    assert color_at(browser, "fill", 50, 2, 0)[3] == color_at(browser, "fill", 45, 27, 0)[3] == 0, "matched, and crowd"
    open_card_again(browser, 1)
    # in image 2 the sky ends at column 45: the rest of it differs
    assert color_at(browser, "fill", 30, 2, 0)[3] == 0 and color_at(browser, "fill", 50, 2, 0) == DIFFERS
    browser.press("e")
    assert color_at(browser, "fill", 30, 2, 0) == color_at(browser, "fill", 50, 2, 0) != DIFFERS
    assert browser.run("document.querySelector('.legend.errors').checkVisibility()") is False
    browser.press("e")


def open_card_again(browser: Browser, number: int) -> None:
    """Close the viewer, and open another image."""
    browser.press("Escape")
    browser.run("view.panes = []")
    open_card(browser, number)


def test_the_pointer_names_segments_of_both_sides(browser: Browser) -> None:
    open_card(browser, 0)
    for pane in (0, 1):
        assert point_at(browser, 15, 10, pane).splitlines() == [
            "Ground truth: box, missed, 210 pixels",
            "Prediction: ball, score 0.50, false positive, 210 pixels",
        ]
        assert browser.run("view.pointed.every(index => index > 0)") is True
    assert point_at(browser, 50, 2).splitlines()[0] == "Ground truth: sky, matched, IoU 1.00, 990 pixels"
    assert point_at(browser, 45, 27).splitlines() == ["Ground truth: ball, crowd, 50 pixels", "Prediction: void"]
    assert click_at(browser, 50, 2, 1).startswith("Only sky, ")
    assert browser.run("view.isolated.every(index => index > 0)") is True, "the match in the other pane, too"
    assert color_at(browser, "focus", 15, 10, 0)[3] > 150 and color_at(browser, "focus", 15, 10, 1)[3] > 150
    click_at(browser, 50, 2, 0)
    assert browser.run("view.isolated") == [0, 0]


def test_a_name_in_the_table_opens_its_image(browser: Browser) -> None:
    browser.click("[data-show='1']")
    wait_for(browser, "view.panes.length > 0")
    assert browser.run("document.getElementById('viewer-name').textContent") == "2.png"
    browser.press("Escape")
    wait_for(browser, "document.activeElement.dataset.show === '1'")


def test_segments_are_listed_with_errors_first(browser: Browser) -> None:
    open_card(browser, 0)
    rows = browser.run("[...document.querySelectorAll('.segments tbody tr')].map(row => row.innerText.split('\\t'))")
    assert [row[:3] for row in rows][:2] == [["GT", "box", "missed"], ["Pred.", "ball", "false positive"]]
    assert len(rows) == 5
    swatch = browser.run("document.querySelector('.segments tbody td i').getBoundingClientRect().toJSON()")
    assert (swatch["width"], swatch["height"]) == (12, 12), "each segment has a visible swatch of its color"
    browser.click(".segments th[data-column=pixels] button")
    pixels = "[...document.querySelectorAll('.segments tbody tr')].map(row => Number(row.cells[5].dataset.value))"
    assert browser.run(pixels) == [990, 990, 210, 210, 50]


def test_an_empty_table_cannot_be_sorted(started: Browser, tmp_path: Path) -> None:
    write_report_page(tmp_path / "index.html", ReportPage("empty", [], [], [], [], []))
    started.open(tmp_path / "index.html")
    started.click("th button")
    assert started.run("document.querySelector('tbody').innerText.trim()") == "none" and started.problems == []


@pytest.mark.parametrize(("size", "scheme"), [((1280, 900), "light"), ((1280, 900), "dark"), ((390, 844), "light")])
def test_layout_and_colors(browser: Browser, page: Path, size: tuple[int, int], scheme: str) -> None:
    """Nothing is wider than the window, and the background matches the color scheme."""
    browser.open(page, size, scheme)
    assert browser.run("document.documentElement.scrollWidth") <= size[0]
    red = int(browser.run("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])
    assert (red > 200) == (scheme == "light") and (red < 60) == (scheme == "dark")
    assert low_contrast(browser) == []
    used = "Math.max(...[...document.querySelectorAll('.sections .wide')].map(e => e.getBoundingClientRect().right))"
    assert browser.run(used) > 0.95 * size[0], "tables use the width of the page"
    open_card(browser, 0)
    assert low_contrast(browser) == [] and browser.run("viewer.scrollWidth") <= size[0]
