"""Panoptic quality (PQ) by the rules of COCO's panoptic evaluation.

For one category PQ = SQ x RQ: SQ is the mean IoU of its matched pairs, RQ the F1 score of the matching.
Letter for shapes: L labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import fsum
from typing import Any

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.errors import DataError
from panformer_cli.metrics.image_overlap import ImageOverlap, IntArray
from panformer_cli.metrics.matching import Matching, match_segments

# A float64 between 0.5 and 1 is an integer multiple of 2^-53. IoUs are summed as integers of this unit, so the sum is
# exact and does not depend on the order of the images or on the number of processes.
_UNITS = 2**53


@dataclass(frozen=True)
class GroupQuality:
    """Means over the categories of a group that have a segment in the ground truth or in the predictions.

    Attributes:
        pq: in percent; 0 if no category counts.
        sq: likewise.
        rq: likewise.
        n: number of categories that count.
    """

    pq: float
    sq: float
    rq: float
    n: int


@dataclass(frozen=True)
class CategoryQuality:
    """The quality of one category.

    Attributes:
        category_id: dataset id of the category.
        name: of the category.
        is_thing: True for things, False for stuff.
        pq: in percent; 0 if the category has no segment.
        sq: likewise.
        rq: likewise.
        tp: matched pairs.
        fp: predictions without a match.
        fn: ground truth segments without a match.
    """

    category_id: int
    name: str
    is_thing: bool
    pq: float
    sq: float
    rq: float
    tp: int
    fp: int
    fn: int

    @property
    def counts(self) -> bool:
        """Whether the category is included in the means."""
        return self.tp + self.fp + self.fn > 0


@dataclass(frozen=True)
class PanopticResult:
    """Means over all categories, things and stuff; and each category in the order of the table."""

    all: GroupQuality
    things: GroupQuality
    stuff: GroupQuality
    categories: tuple[CategoryQuality, ...]


class PanopticQuality:
    """Evaluator of PQ: images are added one by one; processes `merge` their parts."""

    def __init__(self, categories: CategoryTable) -> None:
        self.categories = categories
        self._iou_units = [0] * len(categories)
        self._counts: IntArray = np.zeros((len(categories), 3), dtype=np.int64)  # tp, fp, fn

    def update(self, record: ImageOverlap) -> None:
        """Match and add one image; errors as `match_segments`."""
        self.add(match_segments(record, self.categories))

    def add(self, matching: Matching) -> None:
        """Add the matched, wrong and missed segments of one image."""
        matched = matching.labels[matching.columns]
        for label, value in zip(matched.tolist(), matching.iou.tolist(), strict=True):
            self._iou_units[label] += int(value * _UNITS)  # exact: only the exponent changes
        wrong, missed = matching.labels[matching.wrong], matching.truth_labels[matching.missed]
        for column, labels in enumerate((matched, wrong, missed)):
            self._counts[:, column] += np.bincount(labels, minlength=len(self.categories))

    def merge(self, other: PanopticQuality) -> None:
        """Add the images of `other`, which must have an equal category table."""
        if other.categories != self.categories:
            raise DataError("cannot merge PQ with different category tables; expected equal tables")
        self._iou_units = [a + b for a, b in zip(self._iou_units, other._iou_units, strict=True)]
        self._counts += other._counts

    def result(self) -> PanopticResult:
        """Return PQ, SQ and RQ of the images added so far."""
        rows = tuple(self._category_quality(label) for label in range(len(self.categories)))
        return PanopticResult(
            all=_mean(rows),
            things=_mean(row for row in rows if row.is_thing),
            stuff=_mean(row for row in rows if not row.is_thing),
            categories=rows,
        )

    def _category_quality(self, label: int) -> CategoryQuality:
        category = self.categories.by_label(label)
        tp, fp, fn = (int(count) for count in self._counts[label])
        iou = self._iou_units[label] / _UNITS  # rounded once
        segments = tp + fp / 2 + fn / 2
        return CategoryQuality(
            category_id=category.id,
            name=category.name,
            is_thing=category.is_thing,
            pq=100 * (iou / segments) if segments else 0.0,
            sq=100 * (iou / tp) if tp else 0.0,
            rq=100 * (tp / segments) if segments else 0.0,
            tp=tp,
            fp=fp,
            fn=fn,
        )


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of a group for a table: None instead of 0 if no category counts, since there is no mean.

    >>> shown({"pq": 0.0, "n": 0}), shown({"pq": 0.0, "n": 1})
    ({'pq': None, 'n': 0}, {'pq': 0.0, 'n': 1})
    """
    is_empty = row.get("n") == 0
    return {key: None if is_empty and isinstance(value, float) else value for key, value in row.items()}


def _mean(rows: Iterable[CategoryQuality]) -> GroupQuality:
    counted = [row for row in rows if row.counts]
    n = len(counted)
    return GroupQuality(
        pq=fsum(row.pq for row in counted) / n if n else 0.0,
        sq=fsum(row.sq for row in counted) / n if n else 0.0,
        rq=fsum(row.rq for row in counted) / n if n else 0.0,
        n=n,
    )
