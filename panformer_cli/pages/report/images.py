"""Images of the report: their scores, and what their segments match."""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum
from typing import Any

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.metrics.image_overlap import ImageOverlap
from panformer_cli.metrics.matching import Matching
from panformer_cli.pages.base import format_number
from panformer_cli.pages.gallery.layers import segment_rows


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


def describe_segments(
    record: ImageOverlap, matching: Matching, categories: CategoryTable
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return `segment_rows` of the ground truth and of the prediction with `state`, and `match` and `iou` of matches.

    `state` is matched, missed, false positive, ignored or crowd. `match` is the index of the matched segment, 1 or
    more. A matched prediction has the color of its ground truth segment.
    """
    truth = segment_rows(record.truth, categories)
    prediction = segment_rows(record.predictions, categories)
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
