"""The complete analysis: JSON, merging, worst images."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from math import fsum
from typing import Any

import numpy as np
import pytest

from panformer_cli.data.categories import CategoryTable
from panformer_cli.errors import DataError
from panformer_cli.metrics.analysis.causes import Cause
from panformer_cli.metrics.analysis.panoptic_analysis import PanopticAnalysis
from panformer_cli.metrics.image_overlap import ImageOverlap, compare
from tests.metrics.analysis.test_attribution import quality_of
from tests.metrics.test_quality import TABLE, panoptic, seeded_pairs


def records_of(count: int, seed: int) -> list[ImageOverlap]:
    """Return image overlaps with scores and different names."""
    rng = np.random.default_rng(seed)
    records = []
    for number, (prediction, truth) in enumerate(seeded_pairs(count, seed)):
        segments = tuple(replace(s, score=float(rng.random())) for s in prediction.segments)
        records.append(compare(replace(prediction, segments=segments), truth, number, f"{number:04}.jpg"))
    return records


def analyze(records: list[ImageOverlap], worst: int = 5) -> PanopticAnalysis:
    analysis = PanopticAnalysis(TABLE, worst)
    for record in records:
        analysis.update(record)
    return analysis


def test_json_has_parts_that_add_up() -> None:
    records = records_of(120, seed=9)
    content, quality = json.loads(json.dumps(analyze(records).to_json(), allow_nan=False)), quality_of(records)
    assert list(content) == [
        "causes",
        "cause_gains",
        "sizes",
        "per_class",
        "confusion",
        "calibration",
        "worst_images",
    ]
    for name in ("all", "things", "stuff"):
        assert _sum(content["causes"][name]) == pytest.approx(100 - getattr(quality, name).pq, abs=1e-9)
    by_size = [_sum(content["sizes"][size]) for size in ("small", "medium", "large")]
    assert fsum(by_size) == pytest.approx(100 - quality.all.pq, abs=1e-9)
    pq_of = {row.category_id: row.pq for row in quality.categories}
    for row in content["per_class"]:
        assert row["pq"] == pytest.approx(pq_of[row["category_id"]], abs=1e-9)
        assert _sum(row["lost"]) == pytest.approx(100 - row["pq"], abs=1e-9)
        assert row["gain"] == max(row["gains"].values()) == row["gains"][row["cause"]]
    gains = [row["gain"] for row in content["per_class"]]
    assert gains == sorted(gains, reverse=True)


def _sum(row: dict[str, Any]) -> float:
    total = fsum(row[cause.key] for cause in Cause)
    assert row["total"] == pytest.approx(total, abs=1e-9)
    return total


def test_without_images_nothing_is_lost() -> None:
    content = json.loads(json.dumps(PanopticAnalysis(TABLE).to_json(), allow_nan=False))
    assert content["causes"]["all"]["total"] == 0
    assert content["per_class"] == content["worst_images"] == []


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_any_number_of_processes_gives_identical_results(processes: int) -> None:
    records = records_of(90, seed=10)
    whole = analyze(records).to_json()
    parts = [pickle.loads(pickle.dumps(analyze(records[rank::processes][::-1]))) for rank in range(processes)]
    merged = PanopticAnalysis(TABLE, 5)
    for part in parts:
        merged.merge(part)
    assert merged.to_json() == whole


def test_worst_images_equal_those_of_a_sort() -> None:
    records = records_of(80, seed=11)
    losses = []
    for record in records:
        rows = quality_of([record]).categories
        iou = fsum(row.sq * row.tp / 100 for row in rows)
        tp, fp, fn = (sum(getattr(row, name) for row in rows) for name in ("tp", "fp", "fn"))
        losses.append((tp - iou + fp / 2 + fn / 2, record.file_name, quality_of([record]).all.pq, tp, fp, fn))
    losses.sort(key=lambda row: (-round(row[0], 9), row[1]))
    found = analyze(records, worst=7).to_json()["worst_images"]
    assert [row["file_name"] for row in found] == [row[1] for row in losses[:7]]
    for row, (lost, _, pq, *counts) in zip(found, losses, strict=False):
        assert row["lost"] == pytest.approx(lost)
        assert row["pq"] == pytest.approx(pq)
        assert [row["tp"], row["fp"], row["fn"]] == counts
        assert fsum(row["causes"].values()) == pytest.approx(lost)


def test_images_without_a_loss_are_not_among_the_worst() -> None:
    truth = panoptic([[1, 1]], {1: TABLE.by_label(0).id})
    analysis = analyze([compare(truth, truth), compare(panoptic([[0]], {}), panoptic([[0]], {}))])
    assert analysis.worst.images == []


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images() -> None:
    few, many = (len(pickle.dumps(analyze(records_of(n, seed=12)))) for n in (40, 400))
    assert many < 1.2 * few


def test_different_category_tables_cannot_be_merged() -> None:
    with pytest.raises(DataError, match="different category tables"):
        PanopticAnalysis(TABLE).merge(PanopticAnalysis(CategoryTable(TABLE.categories[:2])))
