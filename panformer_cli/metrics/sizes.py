"""PQ of small, medium and large segments, with COCO's area limits.

Letter for shapes: L labels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import CategoryTable
from panformer_cli.metrics.image_overlap import ImageOverlap, IntArray
from panformer_cli.metrics.matching import Matching, match_segments
from panformer_cli.metrics.quality import PanopticQuality, PanopticResult

SIZES = ("small", "medium", "large")
LIMITS = (32**2, 96**2)
"""Minimum areas, in pixels, of medium and of large segments."""


class SizeQuality:
    """Evaluator of PQ by size: images are added one by one; processes `merge` their parts.

    Matched pairs and missed segments have the size of the ground truth, by its listed area; wrong predictions have
    their own size. Each segment is counted in one size, so the counts of the three sizes add up to those of PQ.
    """

    def __init__(self, categories: CategoryTable) -> None:
        self.categories = categories
        self._qualities = tuple(PanopticQuality(categories) for _ in SIZES)

    def update(self, record: ImageOverlap) -> None:
        """Match and add one image; errors as `match_segments`."""
        self.add(match_segments(record, self.categories), record)

    def add(self, matching: Matching, record: ImageOverlap) -> None:
        """Add the matched, wrong and missed segments of one image; `matching` belongs to `record`."""
        truth_sizes = _sizes(np.array([segment.area for segment in record.truth], np.int64))
        sizes = _sizes(record.predicted_pixels)
        for size, quality in enumerate(self._qualities):
            quality.add(_of_size(matching, truth_sizes == size, sizes == size))

    def merge(self, other: SizeQuality) -> None:
        """Add the images of `other`, which must have an equal category table."""
        for mine, theirs in zip(self._qualities, other._qualities, strict=True):
            mine.merge(theirs)

    def result(self) -> dict[str, PanopticResult]:
        """Return PQ, SQ and RQ by the names of `SIZES`."""
        return {name: quality.result() for name, quality in zip(SIZES, self._qualities, strict=True)}


def _sizes(areas: IntArray) -> npt.NDArray[np.intp]:
    """Return the index in `SIZES` of each area.

    >>> _sizes(np.array([1023, 1024, 9215, 9216])).tolist()
    [0, 1, 1, 2]
    """
    return np.searchsorted(LIMITS, areas, side="right")


def _of_size(matching: Matching, truth: npt.NDArray[np.bool_], predicted: npt.NDArray[np.bool_]) -> Matching:
    """Return the part of a matching with the segments selected by `truth` (T,) and `predicted` (P,)."""
    pairs = truth[matching.rows]
    return replace(
        matching,
        rows=matching.rows[pairs],
        columns=matching.columns[pairs],
        iou=matching.iou[pairs],
        missed=matching.missed[truth[matching.missed]],
        wrong=matching.wrong[predicted[matching.wrong]],
        ignored=matching.ignored[predicted[matching.ignored]],
    )
