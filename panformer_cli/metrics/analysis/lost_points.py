"""The arithmetic of lost PQ: shares of what every category lost, and what mending one cause would give.

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
    """What every category lost, in percent points.

    pq: (L,) PQ of every category; 0 where it does not count.
    points: (L, S, K) what its PQ lost: `pq[label] + points[label].sum()` is 100 where the category counts.
    gains: (L, K) by how much the mean PQ would rise if this cause of this category were mended.
    cause_gains: (K,) the same, mended in all categories.
    tp, fp, fn: (L, S) segments.
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
        """The labels that take part in the means."""
        labels: list[int] = np.flatnonzero((self.tp + self.fp + self.fn).sum(axis=1)).tolist()
        return labels

    def mean(self, labels: Iterable[int]) -> FloatArray:
        """(S, K) what the mean PQ of these labels lost, those left out that do not count; zeros where none does."""
        chosen = sorted(set(labels) & set(self.counting))
        mean: FloatArray = self.points[chosen].sum(axis=0) / max(len(chosen), 1)
        return mean


def lost_points(tp: FloatArray, fp: FloatArray, fn: FloatArray, mask: FloatArray) -> LostPoints:
    """The shares of counts.

    tp: (L, S) matched pairs; fp, fn: (L, S, K) segments without a match; mask: (L, S, K) sums of 1 - IoU of the pairs.
    """
    pairs = tp.sum(axis=1)
    segments = pairs + (fp + fn).sum(axis=(1, 2)) / 2
    pq = 100 * _ratio(pairs - mask.sum(axis=(1, 2)), segments)
    points = 100 * _ratio(mask + (fp + fn) / 2, segments[:, None, None])
    mended = _mended(pairs, fp.sum(axis=1), fn.sum(axis=1), mask.sum(axis=1))
    counts = segments > 0
    return LostPoints(
        pq=pq,
        points=points,
        gains=np.stack([_gains(pq, counts, column) for column in mended.T], axis=1),
        cause_gains=np.array([_mean(column[counts]) - _mean(pq[counts]) for column in mended.T]),
        tp=tp.astype(np.int64),
        fp=fp.sum(axis=2).astype(np.int64),
        fn=fn.sum(axis=2).astype(np.int64),
    )


def _mended(tp: FloatArray, fp: FloatArray, fn: FloatArray, mask: FloatArray) -> FloatArray:
    """(L, K) PQ of every category without one cause; NaN where nothing of the category is left.

    tp: (L,); fp, fn, mask: (L, K). An FP of the cause is gone, an FN becomes a pair as good as the other pairs of its
    category are (or of all, where it has none), masks lose nothing.
    """
    iou = tp - mask.sum(axis=1)
    usual = np.where(tp > 0, _ratio(iou, tp), _ratio(iou.sum(), tp.sum()) if tp.sum() else 1.0)
    quality = np.repeat(usual[:, None], len(Cause), axis=1)
    quality[:, Cause.POOR_MASK] = 1.0
    segments = tp + (fp + fn).sum(axis=1) / 2
    left = segments[:, None] + fn / 2 - fp / 2
    return np.where(left > 0, 100 * _ratio(iou[:, None] + mask + fn * quality, left), np.nan)


def _gains(pq: FloatArray, counts: BoolArray, mended: FloatArray) -> FloatArray:
    """(L,) the mean PQ with one category mended, less the mean PQ; a category of which nothing is left leaves it."""
    n, total = int(counts.sum()), pq[counts].sum()
    without = total / (n - 1) if n > 1 else 0.0
    means = np.where(np.isnan(mended), without, (total - pq + mended) / max(n, 1))
    return np.where(counts, means - _mean(pq[counts]), 0.0)


def _mean(values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else 0.0


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    """part / whole, 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(np.shape(part), np.shape(whole))), where=whole > 0)
