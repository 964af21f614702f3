"""What the report says of one image: how good it is, and for the worst and the best, every pixel's segments."""

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
from panformer_cli.visualization.drawing import segment_colors

LARGEST_SIDE = 1024
"""Pixels of a shown image's longer side; larger ones are shown smaller."""


@dataclass(frozen=True)
class ImageScore:
    """How good one image is.

    number: its place among the images. matched, false, missed: TP, FP, FN.
    lost: sum of 1 - IoU over the matched pairs, and a half for each false or missed segment.
    pq: PQ of the image alone, percent; None where there is nothing to count.
    """

    number: int
    file_name: str
    matched: int
    false: int
    missed: int
    lost: float
    pq: float | None

    @classmethod
    def of(cls, number: int, record: ImageOverlap, matching: Matching) -> ImageScore:
        """The score of an image whose segments were matched."""
        matched, false, missed = len(matching.iou), len(matching.wrong), len(matching.missed)
        lost = matched - fsum(matching.iou.tolist()) + (false + missed) / 2
        return cls(number, record.file_name, matched, false, missed, lost, _image_pq(matching))


@dataclass(frozen=True)
class Side:
    """Ground truth or prediction of an image.

    runs: the map, as `map_runs` writes it. segments: as `describe_segments` writes them.
    """

    runs: list[int]
    segments: list[dict[str, Any]]


@dataclass(frozen=True)
class ImageLayers:
    """An image to look at closely.

    photo: path of the picture relative to the page; "" for none.
    size: height and width of the maps, pixels.
    """

    score: ImageScore
    photo: str
    size: tuple[int, int]
    truth: Side
    prediction: Side


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which an image is shown: its own, or with a longer side of `LARGEST_SIDE`."""
    shrink = min(1.0, LARGEST_SIDE / max(size))
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))


def map_runs(ids: IdMap, segments: Sequence[Segment], size: tuple[int, int]) -> list[int]:
    """The map at (height, width) `size` as `[place, length, place, length, ...]` in reading order.

    Place 0 is void and every id that no segment has; place i is `segments[i - 1]`.
    """
    rows, columns = (
        (np.arange(shown) * full + full // 2) // shown for full, shown in zip(ids.shape, size, strict=True)
    )
    places = {segment.id: place for place, segment in enumerate(segments, start=1)}
    values, lengths = id_runs(ids[np.ix_(rows, columns)])
    pairs = zip(values.tolist(), lengths.tolist(), strict=True)
    return [number for value, length in pairs for number in (places.get(value, 0), length)]


def describe_segments(
    record: ImageOverlap, matching: Matching, categories: CategoryTable
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Ground truth and prediction: for every segment its name, colour, area, score, and what became of it.

    `state` is matched, missed, false, ignored or crowd; `match` is the place of the partner (1 or more), 0 for none.
    A matched prediction has the colour of its partner.
    """
    truth = _side(record.truth, categories)
    prediction = _side(record.predictions, categories)
    for segment, row in zip(record.truth, truth, strict=True):
        row["state"] = "crowd" if segment.is_crowd else "missed"
    for column, row in enumerate(prediction):
        row["state"] = "ignored" if column in matching.ignored else "false"
        row["area"] = int(record.predicted_pixels[column])
    pairs = zip(matching.rows.tolist(), matching.columns.tolist(), matching.iou.tolist(), strict=True)
    for row, column, iou in pairs:
        truth[row] |= {"state": "matched", "iou": round(iou, 4), "match": column + 1}
        prediction[column] |= {"state": "matched", "iou": round(iou, 4), "match": row + 1}
        prediction[column]["color"] = truth[row]["color"]
    return truth, prediction


def _image_pq(matching: Matching) -> float | None:
    """Mean over the categories of the image of sum of IoUs / (TP + FP / 2 + FN / 2), percent."""
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
