from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from panformer_cli.pages.gallery import GalleryPage, write_gallery
from tests.pages.html import Html
from tests.pages.samples import gallery_page


def html_of(tmp_path: Path, page: GalleryPage) -> Html:
    write_gallery(tmp_path / "index.html", page)
    return Html.of_file(tmp_path / "index.html")


@pytest.mark.parametrize(
    "name", ["a b.jpg", "50%.jpg", "a#b?c.jpg", 'quote".jpg', "sub/日本.jpg", "a:b.jpg", "\udcff.jpg"]
)
def test_image_urls_point_to_the_file(tmp_path: Path, name: str) -> None:
    page = html_of(tmp_path, gallery_page(path=f"overlays/{name}"))
    image = page.all("img")[0]
    url = image["src"] or ""
    assert unquote(url, errors="surrogateescape") == f"overlays/{name}" and not re.search(r"[ #?\"]", url)
    assert ":" not in url.split("/")[0]
    assert (image["loading"], image["width"], image["height"]) == ("lazy", "40", "30")
    assert page.all("a")[0]["href"] == url


def test_sections_without_content_are_left_out(tmp_path: Path) -> None:
    page = html_of(tmp_path, GalleryPage("title"))
    assert page.lines() == ["title", "title"] and not page.all("section")
    assert len(html_of(tmp_path, gallery_page()).all("section")) == 4


def test_the_legend_of_a_chart_has_the_last_values(tmp_path: Path) -> None:
    page = html_of(tmp_path, gallery_page("loss"))
    assert "loss 2" in page.lines() and "loss 4" in page.lines()  # last value of the curve; segments of the category
