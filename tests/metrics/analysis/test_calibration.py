"""Calibration of scores: bins and ECE, compared with hand-worked values and NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.metrics.analysis.calibration import Calibration, Reliability
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.metrics.matching import match_segments
from tests.metrics.test_quality import DOG, SKY, TABLE, panoptic


def scored(prediction: PanopticMap, scores: dict[int, float | None]) -> PanopticMap:
    return replace(prediction, segments=tuple(replace(s, score=scores[s.id]) for s in prediction.segments))


def calibrate(prediction: PanopticMap, truth: PanopticMap) -> Calibration:
    record = compare(prediction, truth, file_name="a.png")
    calibration = Calibration(TABLE)
    calibration.add(record, match_segments(record, TABLE))
    return calibration


def test_hand_worked_image() -> None:
    truth = panoptic([[1] * 4 + [2] * 4 + [3] * 4 + [0] * 3], {1: DOG, 2: DOG, 3: SKY})
    guess = panoptic([[4] * 3 + [0] + [5] * 4 + [6, 7, 7, 7] + [8] * 3], {4: DOG, 5: DOG, 6: DOG, 7: SKY, 8: DOG})
    result = calibrate(scored(guess, {4: 0.85, 5: 0.81, 6: 0.83, 7: None, 8: 0.9}), truth).to_json()
    row = {"from": 0.8, "to": 0.9, "n": 3, "score": 0.83, "matched": 2 / 3, "iou": 7 / 8}
    assert result["things"]["bins"][8] == pytest.approx(row)
    assert result["things"]["n"] == 3  # 8 is on void and is ignored
    assert result["things"]["ece"] == pytest.approx(0.83 - 2 / 3)
    assert result["stuff"]["n"] == 0 and result["stuff"]["ece"] is None
    empty = {"from": 0.1, "to": 0.2, "n": 0, "score": None, "matched": None, "iou": None}
    assert result["stuff"]["bins"][1] == empty


def test_equals_numpy() -> None:
    rng = np.random.default_rng(0)
    scores = np.append(rng.random(500), [0.0, 1.0, 0.5])
    ious = [float(rng.uniform(0.5, 1)) if rng.random() < score else None for score in scores]
    halves = Reliability(), Reliability()
    for number, (score, iou) in enumerate(zip(scores.tolist(), ious, strict=True)):
        halves[number % 2].add(score, iou)
    halves[0].merge(halves[1])
    result = halves[0].to_json()
    edges = np.linspace(0, 1, 11)
    bins = np.clip(np.digitize(scores, edges) - 1, 0, 9)
    hits = np.array([iou is not None for iou in ious])
    error = 0.0
    for number, row in enumerate(result["bins"]):
        own = bins == number
        assert row["n"] == own.sum()
        assert row["matched"] == pytest.approx(hits[own].mean())
        assert row["score"] == pytest.approx(scores[own].mean())
        found = [iou for iou, here in zip(ious, own, strict=True) if here and iou is not None]
        assert row["iou"] == pytest.approx(np.mean(found))
        error += own.mean() * abs(hits[own].mean() - scores[own].mean())
    assert result["ece"] == pytest.approx(error)


def test_a_score_above_1_counts_as_1() -> None:
    truth = panoptic([[1, 1]], {1: DOG})
    bins = [
        calibrate(scored(panoptic([[5, 5]], {5: DOG}), {5: score}), truth).to_json()["things"]["bins"]
        for score in (1.0, 1.7)
    ]
    assert bins[0] == bins[1]
    assert (bins[1][-1]["n"], bins[1][-1]["score"]) == (1, 1.0)


@pytest.mark.parametrize("score", [-0.1, float("nan"), float("inf")])
def test_an_invalid_score_is_an_error(score: float) -> None:
    truth = panoptic([[1, 1]], {1: DOG})
    with pytest.raises(DataError, match=r"^a\.png, prediction: segment 5 has the score"):
        calibrate(scored(panoptic([[5, 5]], {5: DOG}), {5: score}), truth)
