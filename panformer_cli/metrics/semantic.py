"""Semantic segmentation metrics of panoptic maps: mIoU, frequency weighted IoU and pixel accuracy.

In a panoptic map each pixel has the category of its segment. Letter for shapes: L labels.
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

    Attributes:
        category_id: dataset id of the category.
        name: of the category.
        is_thing: True for things, False for stuff.
        iou: in percent; 0 if the category has no pixels.
        truth_pixels: pixels in the ground truth.
        union_pixels: pixels in the ground truth or the prediction.
    """

    category_id: int
    name: str
    is_thing: bool
    iou: float
    truth_pixels: int
    union_pixels: int


@dataclass(frozen=True)
class SemanticResult:
    """Semantic metrics in percent; 0 if no pixels were added.

    Attributes:
        miou: mean IoU of the categories that have a pixel in the ground truth or the prediction.
        fwiou: IoU weighted by the pixels of the ground truth.
        accuracy: pixels with the correct category.
        n: number of categories in `miou`.
        categories: in the order of the table.
    """

    miou: float
    fwiou: float
    accuracy: float
    n: int
    categories: tuple[CategoryIoU, ...]


class SemanticQuality:
    """Evaluator of the semantic metrics: images are added one by one; processes `merge` their parts.

    Pixels whose ground truth is void or an unlisted id are excluded. Crowds count like other segments. Predicted void
    is an error. Pixels are counted in the maps; listed areas are not used.
    """

    def __init__(self, categories: CategoryTable) -> None:
        self.categories = categories
        self._pixels: IntArray = np.zeros((len(categories), 3), np.int64)

    def update(self, record: ImageOverlap) -> None:
        """Match and add one image; errors as `match_segments`."""
        self.add(match_segments(record, self.categories), record)

    def add(self, matching: Matching, record: ImageOverlap) -> None:
        """Add one image; only the labels of its `matching` are used."""
        rows, columns = matching.truth_labels, matching.labels
        same = np.where(rows[:, None] == columns, record.shared, 0)
        correct, true, predicted = self._pixels.T
        np.add.at(correct, rows, same.sum(axis=1))
        np.add.at(true, rows, record.truth_pixels)
        np.add.at(predicted, columns, record.shared.sum(axis=0))

    def merge(self, other: SemanticQuality) -> None:
        """Add the images of `other`, which must have an equal category table."""
        if other.categories != self.categories:
            raise DataError("cannot merge semantic metrics with different category tables; expected equal tables")
        self._pixels += other._pixels

    def result(self) -> SemanticResult:
        """Return the metrics of the images added so far."""
        rows = tuple(self._category(label) for label in range(len(self.categories)))
        counted = [row.iou for row in rows if row.union_pixels]
        correct, total, _ = self._pixels.sum(axis=0).tolist()
        return SemanticResult(
            miou=fsum(counted) / len(counted) if counted else 0.0,
            fwiou=fsum(row.iou * row.truth_pixels for row in rows) / total if total else 0.0,
            accuracy=100 * correct / total if total else 0.0,
            n=len(counted),
            categories=rows,
        )

    def _category(self, label: int) -> CategoryIoU:
        category = self.categories.by_label(label)
        correct, truth, predicted = self._pixels[label].tolist()
        union = truth + predicted - correct
        iou = 100 * correct / union if union else 0.0
        return CategoryIoU(category.id, category.name, category.is_thing, iou, truth, union)
