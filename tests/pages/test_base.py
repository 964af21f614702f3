"""Shared parts of all pages: head, security policy, inlined files, tables and bars."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from pathlib import Path
from typing import Any

import pytest

from panformer_cli.errors import PanformerError
from panformer_cli.pages import base
from panformer_cli.pages.base import Bar, Label, Table, render, write_page
from panformer_cli.pages.gallery.page import GalleryPage, write_gallery
from panformer_cli.pages.report.page import write_report_page
from panformer_cli.pages.summary import write_summary
from tests.pages.html import NASTY, Html
from tests.pages.samples import gallery_page, report_page, split_summary

TEMPLATES = Path(base.__file__).parent / "templates"
GALLERY_SCRIPTS = ["maps.js", "search.js", "viewer.js", "grid.js"]


def write(kind: str, path: Path, text: str = "x") -> None:
    """Write a page of one kind in which every text is `text`."""
    if kind == "gallery":
        write_gallery(path, gallery_page(text))
    elif kind == "report":
        write_report_page(path, report_page(text))
    else:
        write_summary(path, text, {text: split_summary(text)})


def table_of(tmp_path: Path, table: Table) -> Html:
    write_gallery(tmp_path / "index.html", GalleryPage("title", tables=[table]))
    return Html.of_file(tmp_path / "index.html")


every_page = pytest.mark.parametrize(
    ("kind", "assets"),
    [
        ("gallery", ["base.css", "charts.css", "gallery.css", "tables.js", *GALLERY_SCRIPTS]),
        ("report", ["base.css", "gallery.css", "report.css", "tables.js", *GALLERY_SCRIPTS]),
        ("summary", ["base.css", "gallery.css", "summary.css", "tables.js", *GALLERY_SCRIPTS]),
    ],
)


@every_page
def test_the_security_policy_allows_only_the_inlined_files(tmp_path: Path, kind: str, assets: list[str]) -> None:
    write(kind, tmp_path / "index.html")
    page = Html.of_file(tmp_path / "index.html")
    policy = page.all("meta")[1]["content"] or ""
    for name in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.raw[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not [attributes for _, attributes in page.elements if "style" in attributes], "blocked by the policy"


@every_page
def test_a_page_is_self_contained(tmp_path: Path, kind: str, assets: list[str]) -> None:
    write(kind, tmp_path / "index.html")
    source = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\(|\bfetch\b|XMLHttpRequest|innerHTML|eval\(", source)
    assert not Html(source).all("link") and "prefers-color-scheme: dark" in source
    for suffix, element in ((".css", "style"), (".js", "script")):
        files = [(TEMPLATES / name).read_text(encoding="utf-8").rstrip() for name in assets if name.endswith(suffix)]
        inlined = Html(source).raw[element]
        assert [part in inlined for part in files] == [True] * len(files), "style and script are inlined unchanged"
        assert len(inlined) - len("".join(files)) <= len(files)


@every_page
def test_every_text_is_escaped(tmp_path: Path, kind: str, assets: list[str]) -> None:
    plain, nasty = tmp_path / "plain.html", tmp_path / "nasty.html"
    write(kind, plain)
    write(kind, nasty, NASTY)
    pages = [Html.of_file(path) for path in (plain, nasty)]
    # Examples of queries, in `code`, have only simple names.
    tags = [[tag for tag, _ in page.elements if tag != "code"] for page in pages]
    assert tags[0] == tags[1]
    assert not [name for _, attributes in pages[1].elements for name in attributes if name.startswith("on")]
    assert pages[1].text.count(NASTY) >= 4


@every_page
def test_characters_that_utf8_cannot_encode_become_question_marks(tmp_path: Path, kind: str, assets: list[str]) -> None:
    write(kind, tmp_path / "index.html", "a\udcffb")
    assert "a?b" in Html.of_file(tmp_path / "index.html").text


def test_cells_have_their_sort_keys(tmp_path: Path) -> None:
    rows: list[list[Any]] = [
        ["a", 43.25, 7000, Bar(3, 6, "things"), Label("x")],
        ["b", None, 8, Bar(4.5, 6, decimals=2), Label("y", (1, 2, 3), close_up=1)],
        ["c", math.nan, 9, Bar(0, 6), Label("z", thumbnail="a b.jpg")],
    ]
    page = table_of(tmp_path, Table("caption", ["name", "PQ", "N", "bar", "label"], rows, "note"))
    values = [cell.get("data-value") for cell in page.all("td")]
    assert values == [None, "43.25", "7000", "3", None, None, "", "8", "4.5", None, None, "", "9", "0", None]
    assert [header.get("class") for header in page.all("th")] == [None, "number", "number", "number", None]
    assert all(header["scope"] == "col" for header in page.all("th")) and not page.all("input")
    assert page.lines()[-3:] == ["a43.27,0003x", "b–84.50y", "c–90z"] and "captionnote" in page.lines()
    assert [button["data-show"] for button in page.all("button") if "data-show" in button] == ["1"]
    assert page.all("img")[0]["src"] == "a%20b.jpg"
    assert [rect["fill"] for rect in page.all("rect") if "fill" in rect] == ["rgb(1, 2, 3)"]


def test_bars_are_drawn_to_scale(tmp_path: Path) -> None:
    bars = [Bar(50.0, 200), Bar(100.0, 200), Bar(0.0, 200), Bar(300.0, 200), Bar(0.0, 0)]
    assert [bar.length for bar in bars] == [25, 50, 0, 100, 0]
    page = table_of(tmp_path, Table("c", ["x"], [[bar] for bar in bars]))
    assert [rect["width"] for rect in page.all("rect") if rect["class"] == "lost"] == [
        "25.0",
        "50.0",
        "0.0",
        "100.0",
        "0.0",
    ]


def test_fractions_get_more_decimals_than_percentages(tmp_path: Path) -> None:
    assert "0.125" in table_of(tmp_path, Table("c", ["x"], [[0.125], [1.0]])).text
    assert table_of(tmp_path, Table("c", ["x", "y"], [[12.5, 0.125]])).lines()[-1] == "12.50.1"


@pytest.mark.parametrize(("rows", "boxes"), [(8, 0), (9, 1)])
def test_long_tables_can_be_filtered(tmp_path: Path, rows: int, boxes: int) -> None:
    page = table_of(tmp_path, Table("c", ["x"], [[1]] * rows))
    assert [box["aria-label"] for box in page.all("input")] == ["Filter: c"] * boxes
    assert (f"{rows} rows" in page.text) == (boxes > 0)


def test_a_table_with_a_row_of_the_wrong_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="'caption' has a row without 2 cells"):
        Table("caption", ["a", "b"], [["1"]])


def test_an_undefined_variable_is_an_error() -> None:
    with pytest.raises(Exception, match="'drawing' is undefined"):
        render("line_chart.svg")


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PanformerError, match="cannot write"):
        write_page(tmp_path / "file" / "index.html", "summary.html", "title", splits=[])
