"""Panoptic quality (PQ) by the rules of COCO's panoptic evaluation.

PQ = SQ x RQ of one category: SQ is the mean IoU of its matched pairs, RQ the F1 score of the matching.
Letters for shapes: T ground truth segments, P predicted segments, each with row 0 for void; L labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

# A float64 above 0.5 is a whole multiple of 2^-53. So IoUs are summed as whole numbers of this unit: the sum is exact,
# and does not depend on the order of the images or on the number of processes.
_UNITS = 2**53


@dataclass(frozen=True)
class GroupQuality:
    """Means over the categories of a group that have a segment in the ground truth or in the predictions.

    pq, sq, rq: percent; 0 where no category counts.
    n: categories that count.
    """

    pq: float
    sq: float
    rq: float
    n: int


@dataclass(frozen=True)
class CategoryQuality:
    """The quality of one category.

    pq, sq, rq: percent; 0 where the category has no segment at all.
    tp, fp, fn: matched pairs, predictions without a match, ground truth segments without a match.
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
        """Whether the category takes part in the means."""
        return self.tp + self.fp + self.fn > 0


@dataclass(frozen=True)
class PanopticResult:
    """Means over all categories, the things, the stuff; and every category in the order of the table."""

    all: GroupQuality
    things: GroupQuality
    stuff: GroupQuality
    categories: tuple[CategoryQuality, ...]


class PanopticQuality:
    """Counts images one by one; processes that share the images add their `state()`s."""

    def __init__(self, categories: CategoryTable) -> None:
        self.categories = categories
        self._iou_units = [0] * len(categories)
        self._counts: IntArray = np.zeros((len(categories), 3), dtype=np.int64)  # tp, fp, fn

    def update(self, prediction: PanopticMap, truth: PanopticMap, where: str = "the image") -> None:
        """Count one image.

        A pair matches when the categories agree and IoU > 0.5; predicted pixels on void ground truth are left out of
        the union. Crowd segments are neither matched nor missed. A prediction without a match is not counted when more
        than half of it lies on void and on the crowd of its category (the last one listed, where there are several).
        Areas of the ground truth are those of its rows, areas of the prediction are counted in the map.

        where: what to call the image in an error.

        Raises:
            DataError: the maps differ in size, a map and its rows disagree, or a category is not in the table.
        """
        truth_labels = self._labels(truth, f"{where}, ground truth")
        labels = self._labels(prediction, f"{where}, prediction")
        overlap = _overlaps(prediction, truth, where)  # (T, P) pixels
        areas = overlap.sum(axis=0)
        crowd = np.array([True] + [segment.is_crowd for segment in truth.segments])  # void is ignored as crowds are
        candidates = (overlap > 0) & (truth_labels[:, None] == labels) & ~crowd[:, None]
        rows, columns = np.nonzero(candidates)
        iou = _ious(overlap, truth, rows, columns, where)
        matched = iou > 0.5
        rows, columns = rows[matched], columns[matched]

        missed = ~crowd
        missed[rows] = False
        wrong = 2 * _ignored(overlap, truth_labels, labels, crowd) <= areas
        wrong[columns] = False
        wrong[0] = False  # predicted void
        self._add(labels[columns], iou[matched], labels[wrong], truth_labels[missed])

    def merge(self, other: PanopticQuality) -> None:
        """Add the images that `other` has counted; it must have an equal category table."""
        if other.categories != self.categories:
            raise DataError("two panoptic qualities have different category tables; expected one table for both")
        self._iou_units = [a + b for a, b in zip(self._iou_units, other._iou_units, strict=True)]
        self._counts += other._counts

    def state(self) -> IntArray:
        """All counts, as (L, 5) int64: sum of IoUs (whole part, fraction in units of 2^-53), tp, fp, fn.

        The states of up to 1023 processes may be added element by element, as `all_reduce` does: `from_state` of the
        sum is exactly what one process would have counted.
        """
        sums = np.array([divmod(units, _UNITS) for units in self._iou_units], dtype=np.int64)
        return np.concatenate([sums, self._counts], axis=1)

    @classmethod
    def from_state(cls, categories: CategoryTable, state: npt.ArrayLike) -> PanopticQuality:
        """A quality that goes on from `state`, (L, 5) int64: one `state()` or a sum of several."""
        counts = np.asarray(state, dtype=np.int64)
        if counts.shape != (len(categories), 5):
            raise DataError(f"the state has the shape {counts.shape}; expected ({len(categories)}, 5) for this table")
        quality = cls(categories)
        quality._iou_units = [whole * _UNITS + fraction for whole, fraction in counts[:, :2].tolist()]
        quality._counts = counts[:, 2:].copy()
        return quality

    def result(self) -> PanopticResult:
        """PQ, SQ and RQ of what was counted so far."""
        rows = tuple(self._category_quality(label) for label in range(len(self.categories)))
        return PanopticResult(
            all=_mean(rows),
            things=_mean(row for row in rows if row.is_thing),
            stuff=_mean(row for row in rows if not row.is_thing),
            categories=rows,
        )

    def _labels(self, panoptic: PanopticMap, where: str) -> IntArray:
        """(1 + segments,) labels of the rows; -1 for void, row 0."""
        ids = [segment.id for segment in panoptic.segments]
        if len(set(ids)) < len(ids) or min(ids, default=1) < 1:
            raise DataError(f"{where}: the segments have the ids {sorted(ids)}; expected different ids of 1 or more")
        unknown = sorted({s.category_id for s in panoptic.segments if s.category_id not in self.categories})
        if unknown:
            raise DataError(f"{where}: categories {unknown} are unknown; expected ids of the category table")
        return np.array([-1] + [self.categories.label(segment.category_id) for segment in panoptic.segments])

    def _add(self, matched: IntArray, iou: FloatArray, wrong: IntArray, missed: IntArray) -> None:
        """Count segments, given by their labels."""
        for label, value in zip(matched.tolist(), iou.tolist(), strict=True):
            self._iou_units[label] += int(value * _UNITS)  # exact: only the exponent changes
        for column, labels in enumerate((matched, wrong, missed)):
            self._counts[:, column] += np.bincount(labels, minlength=len(self.categories))

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


def _overlaps(prediction: PanopticMap, truth: PanopticMap, where: str) -> IntArray:
    """(T, P) pixels that a ground truth segment and a predicted one share; row and column 0 are void."""
    if prediction.ids.shape != truth.ids.shape:
        raise DataError(
            f"{where}: the prediction is {_size(prediction)} and the ground truth {_size(truth)}; "
            "expected one size (height x width)"
        )
    shape = (len(truth.segments) + 1, len(prediction.segments) + 1)
    pairs = _row_of_pixel(truth, f"{where}, ground truth") * shape[1]
    pairs += _row_of_pixel(prediction, f"{where}, prediction")
    overlap = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
    empty = [
        segment.id for segment, pixels in zip(prediction.segments, overlap.sum(axis=0)[1:], strict=True) if not pixels
    ]
    if empty:
        raise DataError(f"{where}, prediction: segments {empty} have no pixel in the map; expected at least one each")
    return overlap


def _row_of_pixel(panoptic: PanopticMap, where: str) -> IntArray:
    """(H * W,) the row of every pixel's segment, counted from 1; 0 for void."""
    ids = np.array([0] + [segment.id for segment in panoptic.segments])
    order = np.argsort(ids)
    pixels = panoptic.ids.reshape(-1)
    place = np.searchsorted(ids[order], pixels).clip(max=len(ids) - 1)
    rows: IntArray = order[place]
    strangers = ids[rows] != pixels
    if strangers.any():
        listed = np.unique(pixels[strangers])[:5].tolist()
        raise DataError(f"{where}: the map holds ids {listed} that no segment has; expected a row for every id but 0")
    return rows


def _ious(overlap: IntArray, truth: PanopticMap, rows: IntArray, columns: IntArray, where: str) -> FloatArray:
    """Float64 IoUs of the pairs (rows[i], columns[i]), the predictions' void pixels left out of the union."""
    truth_areas = np.array([0] + [segment.area for segment in truth.segments], dtype=np.int64)[rows]
    if (truth_areas < 1).any():
        unsized = sorted({truth.segments[row - 1].id for row in rows[truth_areas < 1]})
        raise DataError(
            f"{where}, ground truth: segments {unsized} have pixels but no area; expected an area of 1 or more"
        )
    shared = overlap[rows, columns]
    union = overlap[:, columns].sum(axis=0) + truth_areas - shared - overlap[0, columns]
    iou: FloatArray = shared / union
    return iou


def _ignored(overlap: IntArray, truth_labels: IntArray, labels: IntArray, crowd: npt.NDArray[np.bool_]) -> IntArray:
    """(P,) pixels of every prediction on void and on the last crowd segment of its category."""
    ignored: IntArray = overlap[0].copy()
    crowd_of_label = {int(truth_labels[row]): row for row in np.flatnonzero(crowd)[1:]}
    for column, label in enumerate(labels.tolist()):
        if label in crowd_of_label:
            ignored[column] += overlap[crowd_of_label[label], column]
    return ignored


def _mean(rows: Iterable[CategoryQuality]) -> GroupQuality:
    counted = [row for row in rows if row.counts]
    n = len(counted)
    return GroupQuality(
        pq=fsum(row.pq for row in counted) / n if n else 0.0,
        sq=fsum(row.sq for row in counted) / n if n else 0.0,
        rq=fsum(row.rq for row in counted) / n if n else 0.0,
        n=n,
    )


def _size(panoptic: PanopticMap) -> str:
    return " x ".join(str(side) for side in panoptic.ids.shape)
