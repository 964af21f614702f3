"""The report in a real browser: loading, sorting, filtering, toggling layers and naming segments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from panformer_cli.pages.report.images import ImageScore
from panformer_cli.pages.report.page import ReportPage, write_report_page
from tests.browser import Browser
from tests.engine.evaluation.test_report import Evaluated

pytestmark = pytest.mark.slow  # a browser takes seconds to start

ALL_IMAGES = "document.querySelector('#part-all-images table')"
PAINTED = """(name => {
  const canvas = document.querySelector('[data-part="' + name + '"]');
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const colors = {};
  for (let i = 0; i < data.length; i += 4) {
    const color = data.slice(i, i + 4).join(' ');
    colors[color] = (colors[color] || 0) + 1;
  }
  return colors;
})"""


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


def visible(browser: Browser, part: str) -> bool:
    return bool(browser.run(f"document.querySelector('[data-part={part}]').getClientRects().length > 0"))


def point_at(browser: Browser, column: float, row: float) -> str:
    """Move the mouse to a pixel of the image, and return the tooltip."""
    left, top, width, height = browser.run(
        "(stage => (stage.scrollIntoView({block: 'center'}), stage = stage.getBoundingClientRect(), "
        "[stage.x, stage.y, stage.width, stage.height]))(document.querySelector('.stage'))"
    )
    browser.point(left + (column + 0.5) / 60 * width, top + (row + 0.5) / 40 * height)
    text: str = browser.run("document.getElementById('tip').innerText")
    return text


def test_images_load_from_disk(browser: Browser) -> None:
    loaded = browser.run(
        "(async () => { const all = [...document.images].filter(image => image.getAttribute('src'));"
        "for (const image of all) { image.loading = 'eager'; await image.decode(); }"
        "return all.map(image => image.naturalWidth > 0); })()"
    )
    assert len(loaded) == 7 and all(loaded)


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
    parts = ("photo", "truth", "prediction", "errors")
    assert [visible(browser, part) for part in parts] == [True, False, False, True]
    browser.press("g")
    browser.press("e")
    assert [visible(browser, part) for part in parts] == [True, True, False, False]
    browser.click("[data-layer=prediction]")
    browser.press("i")
    assert [visible(browser, part) for part in parts] == [False, True, True, False]
    assert browser.run("document.querySelector('[data-layer=prediction]').checked") is True


def test_layers_show_what_was_evaluated(browser: Browser) -> None:
    errors = browser.run(f"{PAINTED}('errors')")
    box = 10 * 21  # predicted as a ball: the box is missed, and the ball is false
    assert errors == {"214 40 190 255": box, "0 0 0 0": 40 * 60 - box}
    truth = browser.run(f"{PAINTED}('truth')")
    assert truth["0 0 0 0"] > 1000 and len(truth) == 5  # void, three segments, white borders


def test_the_pointer_names_segments(browser: Browser) -> None:
    assert point_at(browser, 15, 10).splitlines() == [
        "Ground truth: box, missed, 210 pixels",
        "Prediction: ball, score 0.50, false positive, 210 pixels",
    ]
    assert browser.run(f"{PAINTED}('outline')")["255 255 255 255"] >= 2 * (10 + 21) - 4
    assert point_at(browser, 50, 2).splitlines()[0] == "Ground truth: sky, matched, IoU 1.00, 990 pixels"
    assert point_at(browser, 45, 27).splitlines() == ["Ground truth: ball, crowd, 50 pixels", "Prediction: void"]
    browser.point(2, 2)
    assert browser.run("document.getElementById('tip').hidden") is True


def test_arrows_and_buttons_go_to_other_images(browser: Browser) -> None:
    def shown() -> str:
        return str(browser.run("document.getElementById('shown').firstChild.textContent"))

    assert shown() == "1.png"
    browser.run("document.querySelector('.stage').focus()")
    browser.press("ArrowRight")
    assert shown() == "2.png"
    browser.press("ArrowLeft")
    browser.press("ArrowLeft")
    assert shown() == "0.png"
    browser.click("[data-image='1']")
    assert shown() == "2.png" and browser.run("document.querySelectorAll('[aria-pressed=true]').length") == 1
    browser.click("[data-show='0']")
    assert shown() == "1.png"


def test_segments_are_listed_and_outlined_by_keyboard(browser: Browser) -> None:
    rows = browser.run("[...document.querySelectorAll('.segments tbody tr')].map(row => row.innerText)")
    assert [row.split("\t")[1:3] for row in rows][:2] == [["box", "missed"], ["ball", "false positive"]] and len(
        rows
    ) == 5
    swatch = browser.run("document.querySelector('.segments tbody td i').getBoundingClientRect().toJSON()")
    assert (swatch["width"], swatch["height"]) == (12, 12), "each segment has a visible swatch of its color"
    browser.run("document.querySelector('.segments tbody tr').focus()")
    assert browser.run(f"{PAINTED}('outline')")["255 255 255 255"] >= 2 * (10 + 21) - 4
    browser.press("ArrowDown")
    assert browser.run("document.activeElement.rowIndex") == 2


@pytest.mark.parametrize(("size", "scheme"), [((1280, 900), "light"), ((1280, 900), "dark"), ((390, 844), "light")])
def test_layout_and_colors(browser: Browser, page: Path, tmp_path: Path, size: tuple[int, int], scheme: str) -> None:
    """Nothing is wider than the window, and the background matches the color scheme."""
    browser.open(page, size, scheme)
    assert browser.run("document.documentElement.scrollWidth") <= size[0]
    red = int(browser.run("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])
    assert (red > 200) == (scheme == "light") and (red < 60) == (scheme == "dark")
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
