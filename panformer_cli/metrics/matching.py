"""Matches predicted and ground truth segments by the rules of COCO's panoptic evaluation.

Letters for shapes: T ground truth segments, P predicted segments of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import Segment
from panformer_cli.errors import DataError
from panformer_cli.metrics.image_overlap import FloatArray, ImageOverlap, IntArray

MATCH = 0.5
"""A pair matches above this IoU, so a segment has at most one match."""


@dataclass(frozen=True)
class Matching:
    """The matched and unmatched segments of an image, as indices of `ImageOverlap.truth` and `predictions`.

    Attributes:
        truth_labels: (T,) labels of the category table.
        labels: (P,) labels of the category table.
        rows: (n,) ground truth segments of the matched pairs.
        columns: (n,) predicted segments of the matched pairs.
        iou: (n,) IoU of the matched pairs, above 0.5.
        missed: ground truth segments without a match, except crowds: FN.
        wrong: predicted segments without a match, except ignored ones: FP.
        ignored: predicted segments without a match, more than half of which is on void or on a crowd of their category.
    """

    truth_labels: IntArray
    labels: IntArray
    rows: IntArray
    columns: IntArray
    iou: FloatArray
    missed: IntArray
    wrong: IntArray
    ignored: IntArray


def match_segments(record: ImageOverlap, categories: CategoryTable, boundary: bool = False) -> Matching:
    """Return the matching of an image's segments, as in panopticapi.

    A pair matches if the categories agree and IoU > 0.5; predicted pixels on void ground truth are excluded from the
    union. Crowd segments are neither matched nor missed. A prediction without a match is ignored if more than half of
    it is on void and on the crowd of its category (the last one listed, if there are several). Areas of the ground
    truth are the listed ones, areas of the prediction are counted in the map.

    Args:
        record: the overlap of the image.
        categories: the category table.
        boundary: use the minimum of mask IoU and boundary IoU, for boundary PQ; needs `record.boundary_iou`.

    Raises:
        DataError: a category is not in the table, or listed areas give an empty union.
    """
    truth_labels = _labels(record.truth, categories, f"{record.file_name}, ground truth")
    labels = _labels(record.predictions, categories, f"{record.file_name}, prediction")
    crowd = np.array([segment.is_crowd for segment in record.truth], dtype=bool)
    candidates = (record.shared > 0) & (truth_labels[:, None] == labels) & ~crowd[:, None]
    rows, columns = np.nonzero(candidates)
    iou = mask_ious(record, rows, columns)
    if boundary:
        assert record.boundary_iou is not None, "boundary PQ needs boundary IoUs"
        iou = np.minimum(iou, record.boundary_iou[rows, columns])
    matched = iou > MATCH
    rows, columns = rows[matched], columns[matched]

    missed, unmatched = ~crowd, np.ones(len(labels), dtype=bool)
    missed[rows] = False
    unmatched[columns] = False
    ignorable = 2 * _ignored_pixels(record, truth_labels, labels, crowd) > record.predicted_pixels
    return Matching(
        truth_labels,
        labels,
        rows,
        columns,
        iou[matched],
        np.flatnonzero(missed),
        np.flatnonzero(unmatched & ~ignorable),
        np.flatnonzero(unmatched & ignorable),
    )


def mask_ious(record: ImageOverlap, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> FloatArray:
    """Return the IoUs (n,) float64 of the pairs (rows[i], columns[i]), without predicted void in the union."""
    areas = np.array([segment.area for segment in record.truth], dtype=np.int64)[rows]
    shared = record.shared[rows, columns]
    union = record.predicted_pixels[columns] + areas - shared - record.predicted_on_void[columns]
    if (union == 0).any():
        unsized = sorted({record.truth[row].id for row in rows[union == 0].tolist()})
        raise DataError(
            f"{record.file_name}, ground truth: the listed areas of segments {unsized} give an empty union; "
            "expected the number of their pixels"
        )
    iou: FloatArray = shared / union
    return iou


def _labels(segments: Sequence[Segment], categories: CategoryTable, where: str) -> IntArray:
    unknown = sorted({s.category_id for s in segments if s.category_id not in categories})
    if unknown:
        raise DataError(f"{where}: categories {unknown} are unknown; expected ids of the category table")
    return np.array([categories.label(segment.category_id) for segment in segments], np.int64)


def _ignored_pixels(
    record: ImageOverlap, truth_labels: IntArray, labels: IntArray, crowd: npt.NDArray[np.bool_]
) -> IntArray:
    """Return the pixels of each prediction on void and on the last crowd segment of its category, (P,)."""
    ignored = record.predicted_on_void.copy()
    crowd_of_label = {int(truth_labels[row]): row for row in np.flatnonzero(crowd)}
    for column, label in enumerate(labels.tolist()):
        if label in crowd_of_label:
            ignored[column] += record.shared[crowd_of_label[label], column]
    return ignored
