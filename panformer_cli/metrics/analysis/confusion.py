"""Confusion matrices of segments and of pixels.

Letter for shapes: L labels.
"""

from __future__ import annotations

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.errors import DataError
from panformer_cli.metrics.analysis.causes import Cause, Causes
from panformer_cli.metrics.image_overlap import VOID_ROW, ImageOverlap, IntArray
from panformer_cli.metrics.matching import Matching

Cell = tuple[int | None, int | None, int]
"""Category id in the ground truth, category id in the prediction, and count; None for no segment or void."""


class Confusion:
    """Accumulates confusion matrices, image by image.

    Attributes:
        segments: (L + 1, L + 1) int64. Rows are ground truth labels, columns predicted labels. Matched pairs are on the
            diagonal, pairs of different classes off it; other FN are in the last column, other FP in the last row. A
            row sums to TP + FN of its label, a column to TP + FP.
        pixels: (L, L + 1) int64. Pixels of the ground truth by label, including crowds; the last column is predicted
            void.
    """

    def __init__(self, categories: CategoryTable) -> None:
        self.categories = categories
        self.segments: IntArray = np.zeros((len(categories) + 1, len(categories) + 1), np.int64)
        self.pixels: IntArray = np.zeros((len(categories), len(categories) + 1), np.int64)

    def add(self, record: ImageOverlap, matching: Matching, causes: Causes) -> None:
        """Add one image."""
        truth, predicted, nothing = matching.truth_labels, matching.labels, len(self.categories)
        rows, columns = causes.confused.T
        np.add.at(self.segments, (truth[matching.rows], predicted[matching.columns]), 1)
        np.add.at(self.segments, (truth[rows], predicted[columns]), 1)
        missed = matching.missed[causes.missed != Cause.WRONG_CLASS]
        wrong = matching.wrong[causes.wrong != Cause.WRONG_CLASS]
        np.add.at(self.segments, (truth[missed], nothing), 1)
        np.add.at(self.segments, (nothing, predicted[wrong]), 1)
        np.add.at(self.pixels, (truth[:, None], np.append(predicted, nothing)), record.overlap[:VOID_ROW])

    def merge(self, other: Confusion) -> None:
        """Add the images of `other`, which must have an equal category table."""
        if other.categories != self.categories:
            raise DataError("cannot merge confusion matrices with different category tables; expected equal tables")
        self.segments += other.segments
        self.pixels += other.pixels

    def to_json(self) -> dict[str, list[Cell]]:
        """Return `{"segments": [[truth, prediction, count], ...], "pixels": ...}` by category id, in descending count.

        null means no segment or void; zeros are omitted.
        """
        return {"segments": self._cells(self.segments), "pixels": self._cells(self.pixels)}

    def _cells(self, table: IntArray) -> list[Cell]:
        ids = [*(category.id for category in self.categories.categories), None]
        rows, columns = np.nonzero(table)
        cells = [(ids[r], ids[c], int(table[r, c])) for r, c in zip(rows.tolist(), columns.tolist(), strict=True)]
        return sorted(cells, key=lambda cell: -cell[2])
