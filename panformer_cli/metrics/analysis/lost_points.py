"""Computes lost PQ points per category, and the potential gain of fixing one cause.

Formulas in docs/evaluation.md. Letters for shapes: L labels, S sizes (`sizes.SIZES`), K causes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from panformer_cli.metrics.analysis.causes import BoolArray, Cause
from panformer_cli.metrics.image_overlap import FloatArray, IntArray


@dataclass(frozen=True)
class LostPoints:
    """The losses of each category, in PQ points.

    Attributes:
        pq: (L,) PQ of each category; 0 if it does not count.
        points: (L, S, K) lost points: `pq[label] + points[label].sum()` is 100 if the category counts.
        gains: (L, K) increase of the mean PQ if this cause were fixed in this category.
        cause_gains: (K,) increase of the mean PQ if this cause were fixed in all categories.
        tp: (L, S) matched pairs.
        fp: (L, S) predictions without a match.
        fn: (L, S) ground truth segments without a match.
    """

    pq: FloatArray
    points: FloatArray
    gains: FloatArray
    cause_gains: FloatArray
    tp: IntArray
    fp: IntArray
    fn: IntArray

    @property
    def counting(self) -> list[int]:
        """The labels that are included in the means."""
        labels: list[int] = np.flatnonzero((self.tp + self.fp + self.fn).sum(axis=1)).tolist()
        return labels

    def mean(self, labels: Iterable[int]) -> FloatArray:
        """Return the points lost by the mean PQ of these labels, (S, K); labels that do not count are excluded."""
        chosen = sorted(set(labels) & set(self.counting))
        mean: FloatArray = self.points[chosen].sum(axis=0) / max(len(chosen), 1)
        return mean


def lost_points(tp: FloatArray, fp: FloatArray, fn: FloatArray, mask: FloatArray) -> LostPoints:
    """Return the lost points of counted segments.

    Args:
        tp: (L, S) matched pairs.
        fp: (L, S, K) predictions without a match.
        fn: (L, S, K) ground truth segments without a match.
        mask: (L, S, K) sums of 1 - IoU of the pairs.
    """
    pairs = tp.sum(axis=1)
    segments = pairs + (fp + fn).sum(axis=(1, 2)) / 2
    pq = 100 * _ratio(pairs - mask.sum(axis=(1, 2)), segments)
    points = 100 * _ratio(mask + (fp + fn) / 2, segments[:, None, None])
    fixed = _pq_if_fixed(pairs, fp.sum(axis=1), fn.sum(axis=1), mask.sum(axis=1))
    counts = segments > 0
    return LostPoints(
        pq=pq,
        points=points,
        gains=np.stack([_gains(pq, counts, column) for column in fixed.T], axis=1),
        cause_gains=np.array([_mean(column[counts]) - _mean(pq[counts]) for column in fixed.T]),
        tp=tp.astype(np.int64),
        fp=fp.sum(axis=2).astype(np.int64),
        fn=fn.sum(axis=2).astype(np.int64),
    )


def _pq_if_fixed(tp: FloatArray, fp: FloatArray, fn: FloatArray, mask: FloatArray) -> FloatArray:
    """Return the PQ of each category without one cause, (L, K); NaN if no segment of the category is left.

    FPs of the cause are removed, FNs become pairs with the mean IoU of their category (or of all, if it has no pairs),
    and masks lose nothing. `tp` is (L,), the others are (L, K).
    """
    iou = tp - mask.sum(axis=1)
    usual = np.where(tp > 0, _ratio(iou, tp), _ratio(iou.sum(), tp.sum()) if tp.sum() else 1.0)
    quality = np.repeat(usual[:, None], len(Cause), axis=1)
    quality[:, Cause.POOR_MASK] = 1.0
    segments = tp + (fp + fn).sum(axis=1) / 2
    left = segments[:, None] + fn / 2 - fp / 2
    return np.where(left > 0, 100 * _ratio(iou[:, None] + mask + fn * quality, left), np.nan)


def _gains(pq: FloatArray, counts: BoolArray, fixed: FloatArray) -> FloatArray:
    """Return the gain in mean PQ if one category is fixed, (L,); a category without segments leaves the mean."""
    n, total = int(counts.sum()), pq[counts].sum()
    without = total / (n - 1) if n > 1 else 0.0
    means = np.where(np.isnan(fixed), without, (total - pq + fixed) / max(n, 1))
    return np.where(counts, means - _mean(pq[counts]), 0.0)


def _mean(values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else 0.0


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    """Return part / whole, 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(np.shape(part), np.shape(whole))), where=whole > 0)
