"""The pieces of an evaluation's page: runs, scores, tables, charts, and the page as a whole."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from configparser import ConfigParser
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.metrics.matching import match_segments
from panformer_cli.metrics.quality import PanopticQuality
from panformer_cli.pages.report.analysis import analysis_parts
from panformer_cli.pages.report.charts import Bar, CalibrationBin, bars_html, calibration_svg
from panformer_cli.pages.report.figures import facts, headlines, parts
from panformer_cli.pages.report.generic import tables_of
from panformer_cli.pages.report.images import (
    LARGEST_SIDE,
    ImageLayers,
    ImageScore,
    Side,
    describe_segments,
    map_runs,
    shown_size,
)
from panformer_cli.pages.report.page import Headline, Part, ReportContent, page_html
from panformer_cli.pages.report.tables import FILTER_FROM, DataTable, Markup, table_html
from tests.conftest import REPOSITORY
from tests.metrics.test_image_overlap import FAR_IDS, random_map

VOID_ELEMENTS = {"meta", "img", "input", "br"}
NASTY = "</script><img src=x onerror=alert(1)>\"'&<!--"
TABLE = CategoryTable([Category(i, f"class {i}", i < 3) for i in range(5)])


class Html(HTMLParser):
    """Checks that elements close in order, and collects them, the text, and what scripts and styles hold."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.raw: dict[str, str] = {}
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            key = str(self.all(self.open[-1])[-1].get("type") or self.open[-1])
            self.raw[key] = self.raw.get(key, "") + data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def layers(number: int = 0, name: str = "a.jpg", category: str = "cat") -> ImageLayers:
    segment = {"name": category, "color": [1, 2, 3], "area": 2, "score": 0.5, "match": 0, "state": "missed"}
    side = Side([1, 4], [segment])
    return ImageLayers(ImageScore(number, name, 1, 2, 3, 2.7, 20.0), f"images/large/{number}.jpg", (2, 2), side, side)


def content(text: str = "x", **changes: Any) -> ReportContent:
    score = ImageScore(0, text, 1, 2, 3, 2.7, 20.0)
    table = DataTable(text, [text], [[text]] * FILTER_FROM, text)
    part = Part(text, text, text, [bars_html([Bar(text, 1.0, detail=text)], text)], [table])
    settings = {"worst": [layers(0, text, text)], **changes}
    return ReportContent(text, [(text, text)], [Headline(text, text, text)], [part], [score], [text], **settings)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 9), width=st.integers(1, 9), shrink=st.booleans())
def test_runs_tell_every_pixel(seed: int, height: int, width: int, shrink: bool) -> None:
    panoptic = random_map(seed, (height, width), FAR_IDS)
    segments = panoptic.segments[1:]  # the pixels of the first have no row
    full_height, full_width = panoptic.ids.shape
    size = (max(1, full_height // 2), max(1, full_width - 1)) if shrink else panoptic.ids.shape
    runs = map_runs(panoptic.ids, segments, size)
    decoded = [place for place, length in zip(runs[::2], runs[1::2], strict=True) for _ in range(length)]
    ids = [0, *(segment.id for segment in segments)]
    for row in range(size[0]):
        for column in range(size[1]):
            # the pixel of the full map in which the middle of the small pixel lies
            y, x = int((row + 0.5) * full_height / size[0]), int((column + 0.5) * full_width / size[1])
            value = int(panoptic.ids[y, x])
            assert ids[decoded[row * size[1] + column]] == (value if value in ids else 0)
    assert sum(runs[1::2]) == size[0] * size[1]


@pytest.mark.parametrize(
    ("size", "shown"), [((480, 640), (480, 640)), ((2048, 1024), (LARGEST_SIDE, 512)), ((1, 9000), (1, LARGEST_SIDE))]
)
def test_large_images_are_shown_smaller(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert shown_size(size) == shown


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_pq_of_an_image_is_that_of_a_data_set_of_one_image(seed: int) -> None:
    truth = random_map(seed, (4, 5), FAR_IDS)
    mixed = np.where(np.arange(truth.ids.shape[1]) < 4, random_map(seed + 1, (4, 5), FAR_IDS).ids, truth.ids)
    known = {segment.id: segment for segment in truth.segments}
    ids = np.where(np.isin(mixed, list(known)), mixed, 0).astype(np.int32)
    rows = tuple(segment for segment in truth.segments if (ids == segment.id).any())
    record = compare(PanopticMap(ids, rows), truth)
    score = ImageScore.of(3, record, match_segments(record, TABLE))
    quality = PanopticQuality(TABLE)
    quality.update(record)
    result = quality.result()
    assert (score.pq or 0.0) == pytest.approx(result.all.pq, abs=1e-9) and (score.pq is None) == (result.all.n == 0)
    assert score.matched == sum(row.tp for row in result.categories)
    assert score.false == sum(row.fp for row in result.categories)
    assert score.missed == sum(row.fn for row in result.categories)


def worked_record() -> Any:
    """Columns of truth: 1 met in 3 of 4 pixels, 2 missed, a crowd, void. Of the predictions 20 is false, 30 ignored."""
    truth = np.array([[1, 2, 3, 0]] * 4, np.int32)
    ids = np.array([[10, 20, 0, 30], [10, 20, 0, 30], [10, 0, 0, 30], [0, 0, 0, 30]], np.int32)
    of_truth = (Segment(1, 0, 4, (0, 0, 1, 4)), Segment(2, 4, 4, (1, 0, 1, 4)), Segment(3, 1, 4, (2, 0, 1, 4), True))
    found = [(10, 0, 3), (20, 3, 2), (30, 1, 4)]
    predicted = tuple(Segment(number, category, area, (0, 0, 1, 1), score=0.5) for number, category, area in found)
    return compare(PanopticMap(ids, predicted), PanopticMap(truth, of_truth), 7, "b.jpg")


def test_what_became_of_every_segment() -> None:
    record = worked_record()
    matching = match_segments(record, TABLE)
    truth, prediction = describe_segments(record, matching, TABLE)
    assert [row["state"] for row in truth] == ["matched", "missed", "crowd"]
    assert [row["state"] for row in prediction] == ["matched", "false", "ignored"]
    assert (truth[0]["iou"], truth[0]["match"], prediction[0]["match"]) == (0.75, 1, 1)
    assert prediction[0]["color"] == truth[0]["color"] != prediction[1]["color"]
    assert [row["area"] for row in prediction] == [3, 2, 4] and prediction[0]["score"] == 0.5
    score = ImageScore.of(0, record, matching)
    assert score.lost == 0.25 + 0.5 + 0.5
    assert score.pq == pytest.approx(100 * (0.75 + 0 + 0) / 3)


def test_tables_say_what_they_are_sorted_by() -> None:
    rows: list[list[Any]] = [["a", 43.25, 7000, Markup("<b>x</b>", 3)], ["b", None, 8, Markup("y", 4)]]
    page = Html(table_html(DataTable("caption", ["name", "PQ", "N", "mark"], rows, "note")))
    cells = page.all("td")
    assert [cell.get("data-value") for cell in cells] == [None, "43.25", "7000", "3", None, "", "8", "4"]
    assert [header.get("class") for header in page.all("th")] == [None, "number", "number", "number"]
    assert len(page.all("button")) == 4 and all(header["scope"] == "col" for header in page.all("th"))
    assert page.text.endswith("a43.27,000xb–8y") and "note" in page.text and not page.all("input")


def test_shares_get_more_decimals_than_percents() -> None:
    assert "0.125" in table_html(DataTable("c", ["x"], [[0.125], [1.0]]))
    assert "12.5<" in table_html(DataTable("c", ["x", "y"], [[12.5, 0.125]])) and "0.125<" not in table_html(
        DataTable("c", ["x", "y"], [[12.5, 0.125]])
    )


def test_long_tables_can_be_filtered() -> None:
    page = Html(table_html(DataTable("c", ["x"], [[1]] * FILTER_FROM)))
    assert page.all("input")[0]["aria-label"] == "Filter: c" and f"{FILTER_FROM} rows" in page.text


def test_any_figures_become_tables() -> None:
    figures = {"miou": 50.0, "range": [1.0, 2.5], "small": {"pq": 1.0}, "large": {"pq": 2.0}, "deep": {"a": {"b": {}}}}
    tables = list(
        tables_of("Semantic", {**figures, "rows": [{"name": "x", "lost": {"missed": 1.5}}], "list": [3, 4, 5]})
    )
    assert [table.caption for table in tables] == ["Semantic", "Semantic", "Semantic: rows", "Semantic: list"]
    assert [list(row) for row in tables[0].rows] == [["mIoU", 50.0], ["Range", "1.0 to 2.5"]]
    assert [list(row) for row in tables[1].rows] == [["Small", 1.0], ["Large", 2.0]]
    assert list(tables[2].headers) == ["Name", "Lost: missed"] and list(tables[2].rows[0]) == ["x", 1.5]
    assert [list(row) for row in tables[3].rows] == [[1, 3], [2, 4], [3, 5]]
    nothing: list[Any] = [{}, [], None, 3, "x", [[1, 2]], {"a": {}}]
    assert not [table for figure in nothing for table in tables_of("x", figure)]


def test_bars_are_drawn_to_scale() -> None:
    page = Html(bars_html([Bar("a", 50.0), Bar("b", 100.0), Bar("c", 0.0)], "label", 200))
    widths = [rect["width"] for rect in page.all("rect") if rect["class"] == "lost"]
    assert widths == ["25.00", "50.00", "0.00"] and page.text == "a50.0b100.0c0.0"
    assert Html(bars_html([Bar("a", 0.0)], "label")).text == "a0.0"


def test_true_scores_lie_on_the_diagonal() -> None:
    bins = [CalibrationBin(0.25, 0.25, 4), CalibrationBin(0.75, 0.75, 1), CalibrationBin(0.5, 0.5, 0)]
    page = Html(calibration_svg(bins, "label"))
    circles = page.all("circle")
    assert len(circles) == 2
    ((x0, y0, r0), (x1, y1, r1)) = [tuple(float(c[name] or "") for name in ("cx", "cy", "r")) for c in circles]
    start = re.findall(r"[\d.]+", next(path["d"] or "" for path in page.all("path") if path["class"] == "diagonal"))
    left, bottom, right, top = map(float, start)
    assert (x0 - left) / (right - left) == pytest.approx((bottom - y0) / (bottom - top)) == pytest.approx(0.25)
    assert (x1 - left) / (right - left) == pytest.approx(0.75) and y1 < y0 and r0 > r1


def test_every_kind_of_text_is_escaped() -> None:
    page = Html(page_html(content(NASTY)))
    assert len(page.all("script")) == 2 and len(page.all("img")) == 3  # close-up, strip, list
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count(NASTY) >= 14
    [image] = json.loads(page.raw["application/json"])
    assert image["name"] == NASTY == image["truth"]["segments"][0]["name"]
    assert "<" not in page.raw["application/json"]
    assert [picture["src"] for picture in page.all("img") if "src" in picture][-1] == (
        "%3C/script%3E%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E%22%27%26%3C%21--"
    )


def test_only_the_own_script_and_style_may_run() -> None:
    page = Html(page_html(content()))
    policy = page.all("meta")[1]["content"] or ""
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.raw[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not [attributes for _, attributes in page.elements if "style" in attributes]


def test_the_page_needs_nothing_from_elsewhere() -> None:
    source = page_html(content())
    assert not re.search(r"https?:|@import|url\(|\bfetch\b|XMLHttpRequest|innerHTML|eval\(", source)
    assert not Html(source).all("link") and "prefers-color-scheme: dark" in source


def test_every_link_has_its_part_and_every_image_is_lazy() -> None:
    page = Html(page_html(content("x", best=[layers(1, "b.jpg")])))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {(link["href"] or "")[1:] for link in page.all("a")} <= set(ids)
    assert {section["aria-labelledby"] for section in page.all("section")} <= set(ids)
    assert all(image.get("loading") == "lazy" for image in page.all("img") if "src" in image)
    places = [button["data-image"] for button in page.all("button") if "data-image" in button]
    assert places == ["0", "1"] and [b["data-show"] for b in page.all("button") if "data-show" in b] == ["0"]


def test_a_page_without_images_to_look_at_closely() -> None:
    page = Html(page_html(content("x", worst=[])))
    assert "viewer" not in [attributes.get("id") for _, attributes in page.elements]
    assert page.raw["application/json"] == "[]"


def test_figures_come_with_their_intervals() -> None:
    group = {"pq": 40.04, "sq": 80.0, "rq": 50.0, "n": 3}
    figures = {
        "images": 5000,
        "checkpoint": "best",
        "panoptic": {"all": group, "things": group, "stuff": group, "per_class": {}},
        "intervals": {"all": {"pq": [39.0, 41.26]}},
        "bbox": {"AP": 33.3, "APs": None},
    }
    assert facts(figures) == [("Images", "5,000"), ("Checkpoint", "best")]
    rows = headlines(figures)
    assert rows[0] == Headline("PQ", "40.0", "39.0 to 41.3") and rows[1].detail == ""
    assert rows[-1] == Headline("Box AP", "33.3")
    [last] = parts(figures, None, TABLE)
    assert [table.caption for table in last.tables] == ["Panoptic quality", "Box AP"]
    assert [list(row) for row in last.tables[1].rows] == [["AP", 33.3], ["APs", None]]
    assert headlines({}) == [] and parts({}, None, TABLE)[-1].tables == []


def test_unknown_parts_of_an_analysis_are_shown_plainly() -> None:
    [part] = analysis_parts({"new_figure": {"a": 1.0}}, TABLE)
    assert part.heading == "New figure" and [list(row) for row in part.tables[0].rows] == [["A", 1.0]]


def test_style_and_scripts_are_installed() -> None:
    parser = ConfigParser()
    parser.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    patterns = parser["options.package_data"]["panformer_cli.pages.report"].split(",")
    folder = REPOSITORY / "panformer_cli" / "panoptic" / "report"
    suffixes = {path.suffix for path in folder.iterdir() if path.is_file() and path.suffix != ".py"}
    assert {Path(pattern.strip()).suffix for pattern in patterns} == suffixes
