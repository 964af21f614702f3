"""The gallery in a real browser, from disk: cards, viewer, layers, pointing, keys, search, colors and sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.pages.gallery.images import FoundSegment, GalleryImage, write_image
from panformer_cli.pages.gallery.layers import ShownMap
from panformer_cli.pages.gallery.page import GalleryPage, write_gallery
from tests.browser import Browser
from tests.pages.gallery_actions import cards, click_at, color_at, low_contrast, open_card, point_at, wait_for

pytestmark = pytest.mark.slow  # a browser takes seconds to start

EVIL = "</script><img src=x onerror=document.title='bad'>"
TABLE = CategoryTable(
    [
        Category(0, "cat", True, (220, 40, 40)),
        Category(1, EVIL, True, (40, 200, 40)),
        Category(2, "sky", False, (40, 40, 220)),
        Category(3, "salt and pepper", False, (200, 200, 40)),
    ]
)
NAMES = ["plain.jpg", "a#b %41?'\"é.jpg", f"{EVIL}.jpg".replace("/", "-"), "small.jpg"]
HEIGHT, WIDTH = 60, 100
WIDE, PHONE = (1400, 900), (390, 844)


def panoptic(scores: tuple[float, ...] = (0.95, 0.4, 0.7)) -> PanopticMap:
    """Return a map with void in the first 10 rows, below it sky, and in it a cat of 20 x 20 and a tiny square of 4 x 4.

    The cat is in rows 20 to 39 and columns 30 to 49, the square in rows 50 to 53 and columns 80 to 83.
    """
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    ids[10:] = 9
    ids[20:40, 30:50] = 5
    ids[50:54, 80:84] = 6
    areas = [int((ids == number).sum()) for number in (5, 6, 9)]
    found = zip((5, 6, 9), (0, 1, 2), areas, scores, strict=True)
    return PanopticMap(ids, tuple(Segment(n, c, a, (0, 0, 1, 1), score=s) for n, c, a, s in found))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of four images, whose files have their names; the last is smaller and has only a stuff segment."""
    folder = tmp_path_factory.mktemp("gallery")
    pixels = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    images = [
        write_image(folder, f"deep/{name}", name, pixels, [ShownMap.of("Prediction", panoptic(), TABLE)])
        for name in NAMES[:3]
    ]
    one = PanopticMap(np.full((40, 30), 1, np.int32), (Segment(1, 3, 1200, (0, 0, 1, 1), score=0.5),))
    maps = [ShownMap.of("Prediction", one, TABLE)]
    images.append(write_image(folder, "3", NAMES[3], pixels[:40, :30].copy(), maps))
    write_gallery(folder / "index.html", GalleryPage("gallery", [("Images", "photos")], images=images))
    return folder / "index.html"


@pytest.fixture
def browser(started: Browser, page: Path) -> Iterator[Browser]:
    """Open the page; after the test its console must be empty."""
    started.problems.clear()
    started.open(page, WIDE)
    yield started
    assert started.problems == []


def test_all_cards_have_their_names_and_thumbnails(browser: Browser) -> None:
    assert cards(browser) == NAMES and browser.run("document.title") == "gallery"
    wait_for(browser, "[...document.querySelectorAll('.frame img')].every(image => image.naturalWidth > 0)")
    sizes = browser.run("[...document.querySelectorAll('.frame img')].map(i => [i.clientWidth / i.naturalWidth])")
    assert max(size for (size,) in sizes) <= 2


def test_the_viewer_names_outlines_and_isolates_segments(browser: Browser) -> None:
    open_card(browser, 1)
    assert browser.run("document.getElementById('viewer-name').textContent") == NAMES[1]
    wait_for(browser, "view.panes[0].parts.photo.naturalWidth === 100")
    assert point_at(browser, 40, 30) == "cat, score 0.95, 400 pixels"
    assert point_at(browser, 82, 52) == f"{EVIL}, score 0.40, 16 pixels"
    assert point_at(browser, 5, 3) == "void"
    point_at(browser, 40, 30)
    assert color_at(browser, "focus", 40, 30)[3] == 0 and color_at(browser, "focus", 29.5, 30)[3] > 100
    assert click_at(browser, 40, 30).startswith("Only cat, score 0.95, 400 pixels.")
    assert color_at(browser, "focus", 70, 30)[3] > 150, "everything else is dark"
    assert color_at(browser, "focus", 40, 30)[3] == 0 and color_at(browser, "fill", 70, 30)[3] == 0
    assert browser.run("[...document.querySelectorAll('.stage span')].map(label => label.dataset.index)") == ["1"]
    assert browser.run("document.querySelector('tr[aria-selected=true]').cells[1].textContent") == "cat"
    browser.press("Escape")
    assert browser.run("document.querySelector('.status').textContent") == "" and browser.run("viewer.open") is True
    assert color_at(browser, "focus", 70, 30)[3] == 0
    browser.point(2, 2)
    assert browser.run("document.getElementById('tip').hidden") is True


@pytest.mark.parametrize("density", [1.5, 2, 3])
def test_pointing_is_exact_on_dense_screens(browser: Browser, density: float) -> None:
    browser.call("Emulation.setDeviceMetricsOverride", width=1400, height=900, deviceScaleFactor=density, mobile=False)
    open_card(browser, 0)
    scale = browser.run("view.panes[0].parts.lines.width / view.panes[0].stage.clientWidth")
    assert scale == pytest.approx(density, abs=0.01)
    for column, row, name in ((80, 50, EVIL), (83, 53, EVIL), (79, 52, "sky"), (84, 52, "sky"), (82, 54, "sky")):
        assert point_at(browser, column, row).split(", ")[0] == name
    assert EVIL in click_at(browser, 82, 52)


def test_keys_toggle_layers(browser: Browser) -> None:
    open_card(browser, 0)
    state = "[...document.querySelectorAll('[data-layer]')].filter(box => !box.disabled).map(box => box.checked)"
    assert browser.run(state) == [True] * 5, "image, things, stuff, contours and labels; there is no ground truth"

    def cat() -> list[int]:
        return color_at(browser, "fill", 40, 30)

    def sky() -> list[int]:
        return color_at(browser, "fill", 70, 30)

    assert (cat(), sky()) == ([220, 40, 40, 255], [40, 40, 220, 255])
    assert color_at(browser, "fill", 5, 3)[3] == 0, "void"
    browser.press("s")
    assert (cat()[3], sky()[3]) == (255, 0)
    browser.press("t")
    assert (cat()[3], sky()[3]) == (0, 0) and browser.run("document.querySelectorAll('.stage span').length") == 0
    browser.press("t")
    browser.press("S")
    assert color_at(browser, "lines", 29.5, 30)[3] > 50
    for key in "cli":
        browser.press(key)
    assert color_at(browser, "lines", 29.5, 30)[3] == 0
    assert browser.run("document.querySelectorAll('.stage span').length") == 0
    assert browser.run("view.panes[0].parts.photo.checkVisibility()") is False
    browser.run("document.getElementById('opacity').value = 20")
    browser.run("document.getElementById('opacity').dispatchEvent(new Event('input'))")
    assert browser.run("view.panes[0].parts.fill.style.opacity") == "0.2"
    for key in "cli":  # the layers stay as they are for the next image
        browser.press(key)


def test_labels_are_texts_of_the_page_inside_the_image_and_apart(browser: Browser) -> None:
    open_card(browser, 0)
    labels = browser.run(
        "[...document.querySelectorAll('.stage span')].map(l => [l.textContent, getComputedStyle(l).fontSize,"
        "l.offsetLeft, l.offsetTop, l.offsetWidth, l.offsetHeight])"
    )
    assert [label[:2] for label in labels] == [["sky 0.70", "12px"], ["cat 0.95", "12px"]], "no room for the tiny one"
    (_, _, x1, y1, w1, h1), (_, _, x2, y2, w2, h2) = labels
    assert x1 + w1 <= x2 or x2 + w2 <= x1 or y1 + h1 <= y2 or y2 + h2 <= y1
    column = (x2 + w2 / 2) / browser.run("view.panes[0].stage.clientWidth") * WIDTH
    assert 35 < column < 45, "in the middle of the cat"


def test_arrow_keys_and_focus(browser: Browser) -> None:
    browser.run("document.querySelector('[data-image=\"0\"]').focus()")
    browser.press("Enter")
    wait_for(browser, "view.panes.length > 0")
    name = "document.getElementById('viewer-name').textContent"
    browser.press("ArrowLeft")
    assert (
        browser.run(name) == NAMES[3] and browser.run("document.getElementById('viewer-place').textContent") == "4 of 4"
    )
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    wait_for(browser, f"{name} === {json.dumps(NAMES[1])} && view.panes[0].figure.isConnected")
    for _ in range(40):  # the focus stays in the dialog
        browser.press("Tab")
        assert browser.run("viewer.contains(document.activeElement) || document.activeElement === document.body")
    browser.press("ArrowDown")
    browser.run("document.querySelector('tr[data-side]').focus()")
    assert browser.run("view.pointed") != [0], "the row with the focus is outlined"
    browser.press("ArrowDown")
    assert browser.run("document.activeElement.rowIndex") == 2
    browser.press("Enter")
    assert browser.run("view.isolated") != [0]
    browser.press("Escape")
    browser.press("Escape")
    assert browser.run("viewer.open") is False
    wait_for(browser, "document.activeElement.dataset.image === '1'")  # the card of the image that was shown last
    assert browser.run("document.activeElement.matches(':focus-visible')") is True


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("cat", [0, 1, 2]),
        ("cat > 0.9", [0, 1, 2]),
        ("cat>=0.95", [0, 1, 2]),
        ("cat > 95%", []),
        ("cat < 0.5", []),
        ("CAT and Sky", [0, 1, 2]),
        ("cat and salt", []),
        ("cat or small", [0, 1, 2, 3]),
        ("not sky", [3]),
        ("not sky > 0.8", [0, 1, 2, 3]),
        ('"salt and pepper"', [3]),
        ("plain", [0]),
        ("sky, plain", [0]),
        ("sky plain", [0]),
        ("%41", [1]),
        ('"<"', [0, 1, 2]),
        ("nothing", []),
        ("   ", [0, 1, 2, 3]),
    ],
)
def test_search(browser: Browser, query: str, found: list[int]) -> None:
    assert search(browser, query) == [NAMES[number] for number in found]
    total = "4 images" if not query.strip() else f"{len(found)} of 4 images"
    assert browser.run("document.querySelector('.search output').textContent") == total
    assert browser.run("document.querySelector('.nothing').hidden") == bool(found)


def search(browser: Browser, query: str) -> list[str]:
    browser.run(
        f"(box => {{ box.value = {json.dumps(query)}; box.dispatchEvent(new Event('input', {{bubbles: true}})); }})"
        "(document.querySelector('.search input'))"
    )
    return cards(browser)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("cat >", "Expected a score after >, such as 0.8."),
        ("cat > much", "Expected a score after >, such as 0.8."),
        ("> 0.5", "A name is missing before >."),
        ("cat and", "A name is missing."),
        ("not", "A name is missing."),
    ],
)
def test_an_unfinished_search_says_what_is_missing_and_keeps_the_images(
    browser: Browser, query: str, problem: str
) -> None:
    search(browser, "cat")
    assert search(browser, query) == NAMES[:3]
    assert browser.run("document.querySelector('.search output').textContent") == problem


def test_a_category_is_added_to_the_search_and_removed_and_the_viewer_shows_only_what_was_found(
    browser: Browser,
) -> None:
    browser.press("/")
    assert browser.run("document.activeElement.type") == "search"
    for key in "plain":
        browser.press(key)
    browser.click("[data-term='sky']")
    value = "document.querySelector('.search input').value"
    assert browser.run(value) == "plain and sky" and cards(browser) == NAMES[:1]
    browser.click("[data-term='salt and pepper']")
    assert browser.run(value) == 'plain and sky and "salt and pepper"' and cards(browser) == []
    pressed = "[...document.querySelectorAll('.chips [aria-pressed=true]')].map(chip => chip.dataset.term)"
    assert sorted(browser.run(pressed)) == ["salt and pepper", "sky"]
    browser.click("[data-term='salt and pepper']")
    assert cards(browser) == NAMES[:1]
    browser.run("document.querySelector('.search input').value = ''")
    browser.click("[data-term*='script']")
    assert cards(browser) == NAMES[:3]
    open_card(browser, 2)
    browser.press("ArrowRight")
    assert browser.run("document.getElementById('viewer-place').textContent") == "1 of 3"


@pytest.mark.parametrize("size", [WIDE, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_and_width(browser: Browser, page: Path, size: tuple[int, int], scheme: str) -> None:
    browser.open(page, size, scheme)
    red = int(browser.run("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])
    assert (red > 200) == (scheme == "light") and (red < 60) == (scheme == "dark")
    for name in ("grid", "viewer"):
        if name == "viewer":
            open_card(browser, 0)
            click_at(browser, 40, 30)
        assert low_contrast(browser) == []
        assert browser.run("document.documentElement.scrollWidth") <= size[0]
        assert browser.run("viewer.scrollWidth") <= size[0]
    left, right = browser.run("(box => [box.left, box.right])(view.panes[0].stage.getBoundingClientRect())")
    assert left >= 0 and right <= size[0] and right - left > 0.85 * min(size[0], 560)


def test_a_missing_file_is_named(browser: Browser, page: Path) -> None:
    missing = page.parent / "images" / "layers" / "3.js"
    content = missing.read_bytes()
    missing.unlink()
    try:
        browser.open(page, WIDE)
        browser.click("[data-image='3']")
        wait_for(browser, "document.querySelector('.status').textContent")
        text = browser.run("document.querySelector('.status').textContent")
        assert text.startswith("images/layers/3.js cannot be loaded")
    finally:
        missing.write_bytes(content)
    assert all("3.js" in problem or "ERR_FILE_NOT_FOUND" in problem for problem in browser.problems)
    browser.problems.clear()


def test_5000_images_start_quickly_and_load_only_what_is_visible(browser: Browser, tmp_path: Path) -> None:
    write_image(
        tmp_path, "0", "x", np.zeros((HEIGHT, WIDTH, 3), np.uint8), [ShownMap.of("Prediction", panoptic(), TABLE)]
    )
    segments = [FoundSegment(f"category {k}", (k, 0, 0), k / 20) for k in range(20)]
    images = [
        GalleryImage(
            f"{number}.jpg",
            "20 segments",
            "images/small/0.jpg",
            (HEIGHT, WIDTH),
            "images/large/0.jpg",
            "images/layers/0.js",
            (HEIGHT, WIDTH),
            segments[: 1 + number % 20],
        )
        for number in range(5000)
    ]
    write_gallery(tmp_path / "index.html", GalleryPage("many", images=images))
    browser.open(tmp_path / "index.html", WIDE)
    wait_for(browser, "document.querySelector('.frame img').naturalWidth > 0")
    loaded = browser.run("[...document.querySelectorAll('.frame img')].filter(image => image.src).length")
    on_screen = browser.run(
        "[...document.querySelectorAll('.frame')].filter(f => f.getBoundingClientRect().top < innerHeight).length"
    )
    assert loaded <= on_screen < 60 and browser.run("document.querySelectorAll('script[src]').length") == 0
    before, after = (f"{which} = performance.now()" for which in ("window.before", "window.after"))
    browser.run(before)
    assert len(search(browser, "category 19 >= 0.95")) == 60
    browser.run(f"document.body.offsetHeight, {after}")
    assert browser.run("after - before") < 500, "milliseconds"
    assert browser.run("document.querySelector('.search output').textContent") == "250 of 5,000 images"
    search(browser, "")
    browser.run("scrollTo(0, document.documentElement.scrollHeight)")
    wait_for(browser, "document.querySelectorAll('.cards-grid li').length > 60")
    assert browser.run("document.querySelectorAll('.cards-grid li').length") <= 180
