"""Images of the report: their scores, and close-ups with the segment of every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, isfinite
from typing import Any

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_png import id_runs
from panformer_cli.data.structures import IdMap, Segment
from panformer_cli.metrics.image_overlap import ImageOverlap
from panformer_cli.metrics.matching import Matching
from panformer_cli.pages.base import format_number
from panformer_cli.visualization.drawing import segment_colors

LARGEST_SIDE = 1024
"""Maximum length of the longer side of a close-up, pixels; larger images are scaled down."""


@dataclass(frozen=True)
class ImageScore:
    """The results of one image.

    Attributes:
        number: Index of the image in the evaluation.
        file_name: File name of the image.
        matched: TP.
        false_positives: FP.
        missed: FN.
        lost: Sum of 1 - IoU over the matched pairs, plus 0.5 per false positive or missed segment.
        pq: PQ of this image alone, percent; None without segments to count.
    """

    number: int
    file_name: str
    matched: int
    false_positives: int
    missed: int
    lost: float
    pq: float | None

    @classmethod
    def of(cls, number: int, record: ImageOverlap, matching: Matching) -> ImageScore:
        """Return the score of an image from its overlaps and matched segments."""
        matched, wrong, missed = len(matching.iou), len(matching.wrong), len(matching.missed)
        lost = matched - fsum(matching.iou.tolist()) + (wrong + missed) / 2
        return cls(number, record.file_name, matched, wrong, missed, lost, _image_pq(matching))

    @property
    def summary(self) -> str:
        """PQ, TP, FP and FN as text."""
        return f"PQ {format_number(self.pq)}, TP {self.matched}, FP {self.false_positives}, FN {self.missed}"


@dataclass(frozen=True)
class Side:
    """Ground truth or prediction of an image.

    Attributes:
        runs: The map, encoded by `map_runs`.
        segments: The segments, from `describe_segments`.
    """

    runs: list[int]
    segments: list[dict[str, Any]]


@dataclass(frozen=True)
class ImageLayers:
    """An image with a close-up.

    Attributes:
        score: Results of the image.
        photo: Path of the image file relative to the page; "" for none.
        size: Height and width of the maps, pixels.
        truth: Ground truth.
        prediction: Prediction.
    """

    score: ImageScore
    photo: str
    size: tuple[int, int]
    truth: Side
    prediction: Side


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a close-up: those of the image, scaled down if a side exceeds `LARGEST_SIDE`."""
    shrink = min(1.0, LARGEST_SIDE / max(size))
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))


def map_runs(ids: IdMap, segments: Sequence[Segment], size: tuple[int, int]) -> list[int]:
    """Return the map at (height, width) `size` as `[index, length, index, length, ...]` in reading order.

    Index 0 is void and every id that no segment has; index i is `segments[i - 1]`.
    """
    rows, columns = (
        (np.arange(shown) * full + full // 2) // shown for full, shown in zip(ids.shape, size, strict=True)
    )
    indices = {segment.id: index for index, segment in enumerate(segments, start=1)}
    values, lengths = id_runs(ids[np.ix_(rows, columns)])
    pairs = zip(values.tolist(), lengths.tolist(), strict=True)
    return [number for value, length in pairs for number in (indices.get(value, 0), length)]


def describe_segments(
    record: ImageOverlap, matching: Matching, categories: CategoryTable
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return name, color, area, score, state and match of every segment of the ground truth and of the prediction.

    `state` is matched, missed, false positive, ignored or crowd. `match` is the index of the matched segment (1 or
    more), or 0. A matched prediction has the color of its ground truth segment.
    """
    truth = _side(record.truth, categories)
    prediction = _side(record.predictions, categories)
    for segment, row in zip(record.truth, truth, strict=True):
        row["state"] = "crowd" if segment.is_crowd else "missed"
    for column, row in enumerate(prediction):
        row["state"] = "ignored" if column in matching.ignored else "false positive"
        row["area"] = int(record.predicted_pixels[column])
    pairs = zip(matching.rows.tolist(), matching.columns.tolist(), matching.iou.tolist(), strict=True)
    for row, column, iou in pairs:
        truth[row] |= {"state": "matched", "iou": round(iou, 4), "match": column + 1}
        prediction[column] |= {"state": "matched", "iou": round(iou, 4), "match": row + 1}
        prediction[column]["color"] = truth[row]["color"]
    return truth, prediction


def _image_pq(matching: Matching) -> float | None:
    """Return the mean of sum of IoUs / (TP + FP / 2 + FN / 2) over the categories of the image, percent."""
    matched = matching.labels[matching.columns]
    unmatched = np.concatenate([matching.labels[matching.wrong], matching.truth_labels[matching.missed]])
    weights = np.concatenate([np.ones(len(matched)), np.full(len(unmatched), 0.5)])
    segments = np.bincount(np.concatenate([matched, unmatched]), weights)
    iou = np.bincount(matched, matching.iou, minlength=len(segments))
    counting = segments > 0
    return 100 * float(np.mean(iou[counting] / segments[counting])) if counting.any() else None


def _side(segments: Sequence[Segment], categories: CategoryTable) -> list[dict[str, Any]]:
    colors = segment_colors(segments, categories)[1:].tolist()
    return [
        {
            "name": categories.by_id(segment.category_id).name,
            "color": color,
            "area": segment.area,
            "score": segment.score if isfinite(segment.score or 0) else None,
            "match": 0,
        }
        for segment, color in zip(segments, colors, strict=True)
    ]
