"""The report page: encoded maps, scores, tables of JSON, sections, and the whole page."""

from __future__ import annotations

import json
import re
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
from panformer_cli.pages.base import Bar, render
from panformer_cli.pages.report.images import ImageScore, describe_segments
from panformer_cli.pages.report.json_tables import tables_of
from panformer_cli.pages.report.page import CalibrationBin, ReportPage, write_report_page
from panformer_cli.pages.report.sections import analysis_sections, facts, headlines, sections
from tests.metrics.test_image_overlap import FAR_IDS, random_map
from tests.pages.html import NASTY, Html
from tests.pages.samples import gallery_image, report_page

TABLE = CategoryTable([Category(i, f"class {i}", i < 3) for i in range(5)])


def html_of(tmp_path: Path, page: ReportPage) -> Html:
    write_report_page(tmp_path / "index.html", page)
    return Html.of_file(tmp_path / "index.html")


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_pq_of_an_image_is_that_of_a_data_set_with_only_this_image(seed: int) -> None:
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
    assert score.false_positives == sum(row.fp for row in result.categories)
    assert score.missed == sum(row.fn for row in result.categories)


def example_overlap() -> Any:
    """Ground truth: 1 is matched in 3 of 4 pixels, 2 is missed, a crowd, void. Prediction 20 is false, 30 ignored."""
    truth = np.array([[1, 2, 3, 0]] * 4, np.int32)
    ids = np.array([[10, 20, 0, 30], [10, 20, 0, 30], [10, 0, 0, 30], [0, 0, 0, 30]], np.int32)
    true_segments = (
        Segment(1, 0, 4, (0, 0, 1, 4)),
        Segment(2, 4, 4, (1, 0, 1, 4)),
        Segment(3, 1, 4, (2, 0, 1, 4), True),
    )
    found = [(10, 0, 3), (20, 3, 2), (30, 1, 4)]
    predicted = tuple(Segment(number, category, area, (0, 0, 1, 1), score=0.5) for number, category, area in found)
    return compare(PanopticMap(ids, predicted), PanopticMap(truth, true_segments), 7, "b.jpg")


def test_states_of_segments() -> None:
    record = example_overlap()
    matching = match_segments(record, TABLE)
    truth, prediction = describe_segments(record, matching, TABLE)
    assert [row["state"] for row in truth] == ["matched", "missed", "crowd"]
    assert [row["state"] for row in prediction] == ["matched", "false positive", "ignored"]
    assert (truth[0]["iou"], truth[0]["match"], prediction[0]["match"]) == (0.75, 1, 1)
    assert prediction[0]["color"] == truth[0]["color"] != prediction[1]["color"]
    assert [row["area"] for row in prediction] == [3, 2, 4] and prediction[0]["score"] == 0.5
    score = ImageScore.of(0, record, matching)
    assert score.summary == "PQ 25.0, TP 1, FP 1, FN 1"
    assert score.lost == 0.25 + 0.5 + 0.5
    assert score.pq == pytest.approx(100 * (0.75 + 0 + 0) / 3)


def test_arbitrary_metrics_become_tables() -> None:
    metrics = {"miou": 50.0, "range": [1.0, 2.5], "small": {"pq": 1.0}, "large": {"pq": 2.0}, "deep": {"a": {"b": {}}}}
    tables = list(
        tables_of("Semantic", {**metrics, "rows": [{"name": "x", "lost": {"missed": 1.5}}], "list": [3, 4, 5]})
    )
    assert [table.caption for table in tables] == ["Semantic", "Semantic", "Semantic: rows", "Semantic: list"]
    assert [list(row) for row in tables[0].rows] == [["mIoU", 50.0], ["Range", "1.0 to 2.5"]]
    assert [list(row) for row in tables[1].rows] == [["Small", 1.0], ["Large", 2.0]]
    assert list(tables[2].headers) == ["Name", "Lost: missed"] and list(tables[2].rows[0]) == ["x", 1.5]
    assert [list(row) for row in tables[3].rows] == [[1, 3], [2, 4], [3, 5]]
    nothing: list[Any] = [{}, [], None, 3, "x", [[1, 2]], {"a": {}}]
    assert not [table for content in nothing for table in tables_of("x", content)]


def test_calibrated_scores_are_on_the_diagonal() -> None:
    bins = [CalibrationBin(0.25, 0.25, 4), CalibrationBin(0.75, 0.75, 1)]
    page = Html(render("reliability_diagram.svg", bins=bins, label="label"))
    ((x0, y0, r0), (x1, y1, r1)) = [
        tuple(float(circle[name] or "") for name in ("cx", "cy", "r")) for circle in page.all("circle")
    ]
    start = re.findall(r"[\d.]+", next(path["d"] or "" for path in page.all("path") if path["class"] == "diagonal"))
    left, bottom, right, top = map(float, start)
    assert (x0 - left) / (right - left) == pytest.approx((bottom - y0) / (bottom - top)) == pytest.approx(0.25)
    assert (x1 - left) / (right - left) == pytest.approx(0.75) and y1 < y0 and r0 > r1


def test_the_data_of_close_ups_cannot_close_their_element(tmp_path: Path) -> None:
    page = html_of(tmp_path, report_page(NASTY, thumbnails=[NASTY]))
    [image] = json.loads(page.raw["application/json"])["images"]
    assert image["name"] == NASTY
    assert "<" not in page.raw["application/json"] and len(page.all("script")) == 2
    assert [image["src"] for image in page.all("img") if "src" in image] == [
        "%3C/script%3E%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E%22%27%26%3C%21--%7B%7B%207%20%2A%207%20%7D%7D"
    ]


def test_every_link_has_a_section_and_every_image_loads_lazily(tmp_path: Path) -> None:
    page = html_of(tmp_path, report_page("x", best=[(1, gallery_image())]))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {(link["href"] or "")[1:] for link in page.all("a") if "href" in link} <= set(ids)
    assert {section["aria-labelledby"] for section in page.all("section")} <= set(ids)
    assert all(image.get("loading") == "lazy" for image in page.all("img") if "src" in image)
    grids = [(grid["data-first"], grid["data-count"]) for grid in page.all("div") if "data-first" in grid]
    assert grids == [("0", "1"), ("1", "1")]
    assert [b["data-show"] for b in page.all("button") if "data-show" in b] == ["0"]


def test_a_page_without_close_ups(tmp_path: Path) -> None:
    page = html_of(tmp_path, report_page("x", worst=[]))
    assert "viewer" not in [attributes.get("id") for _, attributes in page.elements]
    assert json.loads(page.raw["application/json"]) == {"categories": [], "images": []}


def test_metrics_have_confidence_intervals() -> None:
    group = {"pq": 40.04, "sq": 80.0, "rq": 50.0, "n": 3}
    metrics = {
        "images": 5000,
        "checkpoint": "/home/me/run/best.safetensors",
        "annotation": "/data/coco/annotations/val.json",
        "truth_pngs": "/data/coco/annotations/val",
        "predictions": "panoptic.json",
        "photos": "/data/coco/images",
        "precision": "fp32",
        "settings": {"checkpoint": ["/home/me/run/best.safetensors", 7, 8]},
        "panoptic": {"all": group, "things": group, "stuff": group, "per_class": {}},
        "intervals": {"all": {"pq": [39.0, 41.26]}},
        "bbox": {"AP": 33.3, "APs": None},
    }
    assert facts(metrics) == [
        ("Images", "5,000"),
        ("Checkpoint", "run/best.safetensors"),
        ("Annotation", "annotations/val.json"),
        ("Predictions", "panoptic.json"),
        ("Precision", "fp32"),
    ]
    rows = headlines(metrics)
    assert rows[:2] == [("PQ", "40.0", "39.0 to 41.3"), ("SQ", "80.0", "")]
    assert rows[-1] == ("Box AP", "33.3", "")
    [last] = sections(metrics, {}, TABLE)
    assert [table.caption for table in last.tables] == ["Panoptic quality", "Box AP"]
    assert [list(row) for row in last.tables[1].rows] == [["AP", 33.3], ["APs", None]]
    assert headlines({}) == [] and sections({}, {}, TABLE)[-1].tables == []


def test_unknown_parts_of_an_analysis_become_plain_tables() -> None:
    [section] = analysis_sections({"new_metric": {"a": 1.0}}, TABLE)
    assert section.heading == "New metric" and [list(row) for row in section.tables[0].rows] == [["A", 1.0]]


def test_sizes_are_the_columns_of_their_table() -> None:
    row = {"tp": 10, "fp": 16, "fn": 14, "total": 6.5, "missed": 5.5, "split": 1.0}
    [section] = analysis_sections({"sizes": {"small": row, "large": {**row, "tp": 1, "total": 13.0}}}, TABLE)
    [table] = section.tables
    assert list(table.headers) == ["Cause", "Small", "Large"]
    assert [list(cells) for cells in table.rows] == [
        ["Total", Bar(6.5, 13.0), Bar(13.0, 13.0)],
        ["Missed", 5.5, 5.5],
        ["Split", 1.0, 1.0],
    ]
    assert table.note == "Small: TP 10, FP 16, FN 14. Large: TP 1, FP 16, FN 14."


def test_an_empty_table_says_none(tmp_path: Path) -> None:
    found = sections({"panoptic": {}}, {"worst_images": [], "confusion": {"segments": [], "pixels": []}}, TABLE)
    page = html_of(tmp_path, ReportPage("x", [], [], found, [], []))
    assert page.lines().count("none") == 4, "two tables of confusions, the worst images, and all images"
    assert [cell["colspan"] for cell in page.all("td")] == ["3", "3", "3", "6"]


def test_links_to_other_pages(tmp_path: Path) -> None:
    page = html_of(tmp_path, ReportPage("x", [], [], [], [], [], links=[("Gallery", "../a #b/index.html")]))
    assert [link["href"] for link in page.all("a")][-1] == "../a%20%23b/index.html" and "Gallery" in page.lines()
