from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from panformer_cli.errors import PanformerError
from panformer_cli.pages.base import (
    Chart,
    Gallery,
    Legend,
    LegendEntry,
    Picture,
    Section,
    Series,
    Table,
    Text,
    write_page,
)
from panformer_cli.pages.chart import HEIGHT, MOST_POINTS, WIDTH, linear_ticks, log_ticks, short_number

VOID_ELEMENTS = {"meta", "img", "br", "link", "path", "circle", "polyline"}
NASTY = "<b>\"Tom\" & 'Jerry'</b><script>alert(1)</script>"


class Page(HTMLParser):
    """Checks that elements close in order, and collects them and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID_ELEMENTS or (tag in ("circle", "polyline")):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(tmp_path: Path, *sections: Section, title: str = "title") -> Page:
    write_page(tmp_path / "index.html", title, *sections)
    return Page(tmp_path / "index.html")


def test_every_kind_of_text_is_escaped(tmp_path: Path) -> None:
    sections = (
        Text(NASTY, NASTY),
        Table([NASTY], [[NASTY]], NASTY),
        Gallery([Picture("overlays/a.jpg", NASTY, NASTY)], NASTY),
        Legend([LegendEntry(NASTY, (1, 2, 3), NASTY)], NASTY),
        Chart(NASTY, [Series(NASTY, [(0, 1), (1, 2)])], NASTY, NASTY),
    )
    page = page_of(tmp_path, *sections, title=NASTY)
    bold = page.all("b")
    assert len(page.all("script")) == 1 and len(bold) == 1  # our own script, our own caption
    assert page.text.count(NASTY) >= 14
    assert page.all("img")[0]["alt"] == NASTY


@pytest.mark.parametrize("name", ["a b.jpg", "50%.jpg", "a#b?c.jpg", 'quote".jpg', "sub/日本.jpg", "a:b.jpg"])
def test_picture_addresses_lead_to_the_file(tmp_path: Path, name: str) -> None:
    page = page_of(tmp_path, Gallery([Picture(f"overlays/{name}", "x", size=(30, 40))]))
    picture = page.all("img")[0]
    address = picture["src"] or ""
    assert unquote(address) == f"overlays/{name}" and not re.search(r"[ #?\"]", address)
    assert ":" not in address.split("/")[0]
    assert (picture["loading"], picture["width"], picture["height"]) == ("lazy", "40", "30")
    assert page.all("a")[0]["href"] == address


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    page_of(tmp_path, Text("x"), Gallery([Picture("a.jpg", "a")]))
    source = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "//" not in source.replace("<!DOCTYPE html>", "")
    assert "prefers-color-scheme: dark" in source and "@import" not in source and "url(" not in source


def test_tables_format_numbers(tmp_path: Path) -> None:
    page = page_of(tmp_path, Table(["name", "PQ", "N"], [["a", 43.25, 7], ["b", None, 8], ["c", math.nan, 9]]))
    assert page.text.split("title")[-1].strip().startswith("namePQNa43.2" + "7b–8c–9")
    assert [cell.get("class") for cell in page.all("td")[:3]] == [None, "number", "number"]


def test_a_table_with_a_row_of_another_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises((ValueError, IndexError)):
        write_page(tmp_path / "index.html", "t", Table(["a", "b"], [["1"]]))
    assert not list(tmp_path.iterdir())


def test_paragraphs_and_lines(tmp_path: Path) -> None:
    page = page_of(tmp_path, Text("one\ntwo\n\nthree"))
    assert len(page.all("p")) == 2 and len(page.all("br")) == 1


def test_a_curve_is_drawn_to_scale(tmp_path: Path) -> None:
    page = page_of(tmp_path, Chart("c", [Series("s", [(0, 0), (50, 5), (100, 10)])]))
    curve = page.all("polyline")[0]["points"] or ""
    (x0, y0), (x1, y1), (x2, y2) = [tuple(map(float, point.split(","))) for point in curve.split()]
    assert 0 < x0 < x1 < x2 < WIDTH and HEIGHT > y0 > y1 > y2 > 0
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.11) and y1 == pytest.approx((y0 + y2) / 2, abs=0.11)


def test_a_logarithmic_axis_makes_an_exponential_straight(tmp_path: Path) -> None:
    page = page_of(tmp_path, Chart("c", [Series("s", [(x, 10.0**-x) for x in range(5)])], log_y=True))
    heights = [float(point.split(",")[1]) for point in (page.all("polyline")[0]["points"] or "").split()]
    steps = [after - before for before, after in zip(heights, heights[1:], strict=False)]
    assert max(steps) - min(steps) < 0.25 and min(steps) > 1


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    points = [(0.0, 1.0), (1.0, math.nan), (2.0, math.inf), (3.0, 2.0)]
    page = page_of(tmp_path, Chart("c", [Series("s", points)], log_y=True))
    assert len((page.all("polyline")[0]["points"] or "").split()) == 2
    assert "nan" not in page.text and "inf" not in page.text


@pytest.mark.parametrize("points", [[], [(0.0, math.nan)], [(5.0, 3.0)], [(5.0, 0.0)], [(1.0, -2.0), (1.0, -2.0)]])
def test_charts_of_few_points(tmp_path: Path, points: list[tuple[float, float]]) -> None:
    page = page_of(tmp_path, Chart("c", [Series("s", points)], log_y=True))
    drawn = [point for point in points if math.isfinite(point[1])]
    assert len(page.all("circle")) == len(drawn)
    assert ("No values to draw" in page.text) == (not drawn)


def test_a_long_curve_is_thinned_by_means(tmp_path: Path) -> None:
    points = [(float(x), float(x % 2)) for x in range(10 * MOST_POINTS)]
    page = page_of(tmp_path, Chart("c", [Series("s", points), Series("top", [(0.0, 1.0)])]))
    curve = (page.all("polyline")[0]["points"] or "").split()
    assert len(curve) == MOST_POINTS
    assert len({point.split(",")[1] for point in curve}) == 1  # each piece has as many zeros as ones


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (3.2, 98.7), (1e-6, 3e-4), (-5, 5), (7, 7), (0, 0), (120_000, 360_001), (-2e-9, 0)]
)
def test_linear_ticks_are_round_and_enclose(low: float, high: float) -> None:
    ticks = linear_ticks(low, high)
    steps = [after - before for before, after in zip(ticks, ticks[1:], strict=False)]
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 9
    assert f"{steps[0]:.0e}"[0] in "125" and max(steps) - min(steps) < 1e-6 * steps[0]


@pytest.mark.parametrize(("low", "high"), [(0.3, 9.2), (1, 1), (1e-5, 1e3), (0.05, 0.051), (2.0, 5.0)])
def test_log_ticks_enclose(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert ticks == sorted(set(ticks)) and ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 12
    assert all(f"{tick:.0e}"[0] in "125" for tick in ticks)


def test_short_numbers() -> None:
    values = (0, 0.0001, 950, 9000, 12_000, 2_500_000)
    assert [short_number(value) for value in values] == ["0", "0.0001", "950", "9000", "12k", "2.5M"]


def test_a_page_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PanformerError, match="cannot write"):
        write_page(tmp_path / "file" / "index.html", "t")
