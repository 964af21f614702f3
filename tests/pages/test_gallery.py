"""The gallery page and its data; the layers of an image are in test_gallery_images.py."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from panformer_cli.pages.gallery.images import FoundSegment, GalleryImage
from panformer_cli.pages.gallery.page import GalleryPage, ImageData, write_gallery
from tests.pages.html import NASTY, Html
from tests.pages.samples import gallery_page

RED, BLUE = (255, 0, 0), (0, 0, 255)


def html_of(tmp_path: Path, page: GalleryPage) -> Html:
    write_gallery(tmp_path / "index.html", page)
    return Html.of_file(tmp_path / "index.html")


def data_of(page: Html) -> Any:
    return json.loads(page.raw["application/json"])


@pytest.mark.parametrize(
    "name", ["a b.jpg", "50%.jpg", "a#b?c.jpg", 'quote".jpg', "sub/日本.jpg", "a:b.jpg", "\udcff.jpg"]
)
def test_image_urls_point_to_the_file(tmp_path: Path, name: str) -> None:
    [image] = data_of(html_of(tmp_path, gallery_page(path=name)))["images"]
    for url in (image["small"], image["large"], image["drawing"], image["layers"].removesuffix(".js")):
        assert unquote(url, errors="surrogateescape") == name and not re.search(r"[ #?\"]", url)
        assert ":" not in url.split("/")[0]
    assert (image["smallSize"], image["size"]) == ([30, 40], [60, 80])


def test_sections_without_content_are_left_out(tmp_path: Path) -> None:
    page = html_of(tmp_path, GalleryPage("title"))
    assert page.lines() == ["title", "title"] and not page.all("section") and not page.all("dialog")
    everything = html_of(tmp_path, gallery_page())
    assert len(everything.all("section")) == 1 and len(everything.all("details")) == 2, "numbers are closed at first"
    numbers = html_of(tmp_path, replace(gallery_page(), images=()))
    assert len(numbers.all("section")) == 2 and not numbers.all("details"), "without images they are open"


def test_the_legend_of_a_chart_has_the_last_values(tmp_path: Path) -> None:
    assert "loss 2" in html_of(tmp_path, gallery_page("loss")).lines()


def test_categories_are_counted_and_segments_have_their_numbers_and_thousandths_of_scores(tmp_path: Path) -> None:
    images = [
        GalleryImage("a.jpg", "", segments=[FoundSegment("sky", BLUE, 0.98765), FoundSegment("cat", RED, 0.5)]),
        GalleryImage("b.jpg", "", segments=[FoundSegment("cat", RED), FoundSegment("cat", RED, 1.2)]),
    ]
    page = html_of(tmp_path, GalleryPage("title", images=images))
    data = data_of(page)
    assert data["categories"] == ["cat", "sky"]
    assert [image["segments"] for image in data["images"]] == [[1, 988, 0, 500], [0, -1, 0, 1200]]
    assert "cat 3" in page.lines() and "sky 1" in page.lines() and "2 images" in page.lines()
    assert [button["data-term"] for button in page.all("button") if "data-term" in button] == ["cat", "sky"]


def test_names_cannot_close_the_data(tmp_path: Path) -> None:
    page = html_of(tmp_path, gallery_page(NASTY))
    assert data_of(page)["images"][0]["name"] == NASTY and data_of(page)["categories"] == [NASTY]
    assert "<" not in page.raw["application/json"] and len(page.all("script")) == 2


def test_the_page_of_5000_images_is_small(tmp_path: Path) -> None:
    """20 segments in every image, as in COCO."""
    segments = [FoundSegment(f"category {number}", (number, 0, 0), 0.95) for number in range(20)]
    images = [
        GalleryImage(
            f"{number:012}.jpg",
            "20 segments",
            f"images/small/{number:06}.jpg",
            (300, 400),
            f"images/large/{number:06}.jpg",
            f"images/layers/{number:06}.js",
            (480, 640),
            segments,
            f"overlays/{number:012}.jpg",
        )
        for number in range(5000)
    ]
    write_gallery(tmp_path / "index.html", GalleryPage("title", images=images))
    assert (tmp_path / "index.html").stat().st_size < 2_500_000


def test_layers_can_be_hidden_at_first(tmp_path: Path) -> None:
    page = html_of(tmp_path, GalleryPage("x", images=[GalleryImage("a", "")], hidden_layers=("labels", "errors")))
    shown = {box["data-layer"]: "checked" in box for box in page.all("input") if "data-layer" in box}
    assert [layer for layer, checked in shown.items() if not checked] == ["labels", "errors"] and len(shown) == 8


@pytest.mark.parametrize(
    ("names", "score", "examples"),
    [
        (["sky", "cat"], 0.5, ["sky and cat", "sky and not cat", "sky > 0.5"]),
        (["sky", "cat"], None, ["sky and cat", "sky and not cat"]),
        (["salt and pepper", "traffic light", "<b>"], None, ["traffic light"]),
        ([], None, []),
    ],
)
def test_examples_of_queries_are_of_these_images(names: list[str], score: float | None, examples: list[str]) -> None:
    segments = [FoundSegment(name, RED, score) for name in names]
    assert ImageData([GalleryImage("a", "", segments=segments)]).examples == examples
