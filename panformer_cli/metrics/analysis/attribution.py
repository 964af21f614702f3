"""Attributes lost PQ points to categories, sizes and causes: each lost point has exactly one of each.

Defined in docs/evaluation.md. Letters for shapes: L labels, S sizes, K causes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from typing import Any

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.errors import DataError
from panformer_cli.metrics.analysis.causes import Cause, Causes, pixels_off_void
from panformer_cli.metrics.analysis.lost_points import LostPoints, lost_points
from panformer_cli.metrics.image_overlap import FloatArray, ImageOverlap
from panformer_cli.metrics.matching import Matching
from panformer_cli.metrics.sizes import LIMITS, SIZES

# As in `metrics.quality`, parts of an IoU are summed as integers of this unit, so that sums are exact.
_UNITS = 2**53


Key = tuple[int, int, Cause]
"""Label, index in `sizes.SIZES` and cause."""


class Attribution:
    """Accumulates losses image by image; the result does not depend on the order or on the number of processes.

    Attributes:
        matched: pairs, by label and size of the ground truth.
        wrong: FP.
        missed: FN.
        mask_units: 1 - IoU of the matched pairs, in units of 2^-53.
    """

    def __init__(self, categories: CategoryTable) -> None:
        self.categories = categories
        self.matched: Counter[tuple[int, int]] = Counter()
        self.wrong: Counter[Key] = Counter()
        self.missed: Counter[Key] = Counter()
        self.mask_units: Counter[Key] = Counter()

    def add(self, record: ImageOverlap, matching: Matching, causes: Causes) -> None:
        """Add one image."""
        truth_labels, labels = matching.truth_labels.tolist(), matching.labels.tolist()
        first_stuff = self.categories.num_things
        truth_sizes = [bisect_right(LIMITS, segment.area) for segment in record.truth]
        sizes = [bisect_right(LIMITS, pixels) for pixels in record.predicted_pixels.tolist()]
        for row, cause in zip(matching.missed.tolist(), causes.missed.tolist(), strict=True):
            self.missed[truth_labels[row], truth_sizes[row], Cause(cause)] += 1
        for column, cause in zip(matching.wrong.tolist(), causes.wrong.tolist(), strict=True):
            self.wrong[labels[column], sizes[column], Cause(cause)] += 1
        for row, lost, outside in zip(matching.rows.tolist(), *_mask_units(record, matching), strict=True):
            label, size = truth_labels[row], truth_sizes[row]
            leaked = outside if label >= first_stuff else 0
            self.matched[label, size] += 1
            self.mask_units[label, size, Cause.STUFF_LEAKING] += leaked
            self.mask_units[label, size, Cause.POOR_MASK] += lost - leaked

    def merge(self, other: Attribution) -> None:
        """Add the images of `other`, which must have an equal category table."""
        if other.categories != self.categories:
            raise DataError("cannot merge attributions with different category tables; expected equal tables")
        self.matched.update(other.matched)
        self.wrong.update(other.wrong)
        self.missed.update(other.missed)
        self.mask_units.update(other.mask_units)

    def segments_lost(self) -> dict[Cause, float]:
        """Return by cause the sum of 1 - IoU of each pair and one half for each FP and FN, over all categories."""
        units = dict.fromkeys(Cause, 0)
        for (_, _, cause), value in self.mask_units.items():
            units[cause] += value
        for (_, _, cause), count in (*self.wrong.items(), *self.missed.items()):
            units[cause] += count * _UNITS // 2
        return {cause: value / _UNITS for cause, value in units.items()}

    def result(self) -> LostPoints:
        """Return the lost points of the images added so far."""
        shape = (len(self.categories), len(SIZES), len(Cause))
        return lost_points(
            tp=_table(self.matched, shape[:2]),
            fp=_table(self.wrong, shape),
            fn=_table(self.missed, shape),
            mask=_table(self.mask_units, shape, _UNITS),
        )


def _mask_units(record: ImageOverlap, matching: Matching) -> tuple[list[int], list[int]]:
    """Return 1 - IoU of each matched pair, and its part from pixels predicted outside the ground truth and void."""
    shared = record.shared[matching.rows, matching.columns]
    pixels = pixels_off_void(record)[matching.columns]
    areas = [record.truth[row].area for row in matching.rows.tolist()]
    lost = [_UNITS - int(iou * _UNITS) for iou in matching.iou.tolist()]  # exact: only the exponent changes
    outside = [
        (predicted - common) * _UNITS // (predicted + area - common)
        for predicted, area, common in zip(pixels.tolist(), areas, shared.tolist(), strict=True)
    ]
    # listed areas that are too small make IoUs too large, so the part outside may exceed the loss
    return lost, [min(part, max(whole, 0)) for part, whole in zip(outside, lost, strict=True)]


def _table(counts: Counter[Any], shape: tuple[int, ...], unit: int = 1) -> FloatArray:
    table = np.zeros(shape)
    for index, count in counts.items():
        table[index] = count / unit  # rounded once
    return table
