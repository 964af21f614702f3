"""Semantic quality of a panoptic result: mIoU, frequency weighted IoU and pixel accuracy.

A panoptic map is a semantic map too: every pixel has the category of its segment. Letter for shapes: L labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.errors import DataError
from panformer_cli.metrics.image_overlap import ImageOverlap, IntArray
from panformer_cli.metrics.matching import Matching, match_segments


@dataclass(frozen=True)
class CategoryIoU:
    """One category as a semantic class.

    iou: percent of the pixels that truth or prediction gives the category where both do; 0 where neither has any.
    truth_pixels: in the ground truth. union_pixels: in the ground truth or the prediction.
    """

    category_id: int
    name: str
    is_thing: bool
    iou: float
    truth_pixels: int
    union_pixels: int


@dataclass(frozen=True)
class SemanticResult:
    """Figures in percent; 0 where nothing was counted.

    miou: mean IoU of the categories that have a pixel in the ground truth or the prediction, n of them.
    fwiou: IoU weighted by the pixels of the ground truth.
    accuracy: pixels with the right category.
    categories: in the order of the table.
    """

    miou: float
    fwiou: float
    accuracy: float
    n: int
    categories: tuple[CategoryIoU, ...]


class SemanticQuality:
    """Counts images one by one; processes that share the images `merge` their parts.

    Pixels whose ground truth is void or an id that the annotation does not list are left out. A crowd is pixels of its
    category like any other. A predicted void is wrong. Pixels are those of the maps, whatever areas are listed.
    """

    def __init__(self, categories: CategoryTable) -> None:
        self.categories = categories
        self._pixels: IntArray = np.zeros((len(categories), 3), np.int64)

    def update(self, record: ImageOverlap) -> None:
        """Count one image; raises as `match_segments`."""
        self.add(match_segments(record, self.categories), record)

    def add(self, matching: Matching, record: ImageOverlap) -> None:
        """Count one image; of `matching`, which is that of `record`, only the labels are of interest."""
        rows, columns = matching.truth_labels, matching.labels
        same = np.where(rows[:, None] == columns, record.shared, 0)
        right, true, guessed = self._pixels.T
        np.add.at(right, rows, same.sum(axis=1))
        np.add.at(true, rows, record.truth_pixels)
        np.add.at(guessed, columns, record.shared.sum(axis=0))

    def merge(self, other: SemanticQuality) -> None:
        """Add the images that `other` has counted; it must have an equal category table."""
        if other.categories != self.categories:
            raise DataError("two semantic qualities have different category tables; expected one table for both")
        self._pixels += other._pixels

    def result(self) -> SemanticResult:
        """The figures of what was counted so far."""
        rows = tuple(self._category(label) for label in range(len(self.categories)))
        counted = [row.iou for row in rows if row.union_pixels]
        right, total, _ = self._pixels.sum(axis=0).tolist()
        return SemanticResult(
            miou=fsum(counted) / len(counted) if counted else 0.0,
            fwiou=fsum(row.iou * row.truth_pixels for row in rows) / total if total else 0.0,
            accuracy=100 * right / total if total else 0.0,
            n=len(counted),
            categories=rows,
        )

    def _category(self, label: int) -> CategoryIoU:
        category = self.categories.by_label(label)
        right, truth, predicted = self._pixels[label].tolist()
        union = truth + predicted - right
        iou = 100 * right / union if union else 0.0
        return CategoryIoU(category.id, category.name, category.is_thing, iou, truth, union)
