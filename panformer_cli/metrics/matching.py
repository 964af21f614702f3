"""Which predicted segment is which ground truth segment, by the rules of COCO's panoptic evaluation.

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
"""A pair matches above this IoU; so no segment can match two."""


@dataclass(frozen=True)
class Matching:
    """How the segments of an image were counted. Numbers are places in the record's `truth` and `predictions`.

    truth_labels: (T,), labels: (P,) labels of the category table.
    rows, columns: (n,) the matched pairs, and iou: (n,) their IoU, over 0.5.
    missed: ground truth segments without a match, crowds left out: FN.
    wrong: predicted segments without a match, ignored ones left out: FP.
    ignored: predicted segments without a match that lie for more than half on void or on a crowd of their category.
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
    """Match an image's segments as panopticapi does.

    A pair matches when the categories agree and IoU > 0.5; predicted pixels on void ground truth are left out of the
    union. Crowd segments are neither matched nor missed. A prediction without a match is not counted when more than
    half of it lies on void and on the crowd of its category (the last one listed, where there are several). Areas of
    the ground truth are the listed ones, areas of the prediction are counted in the map.

    boundary: IoU is the smaller of mask IoU and boundary IoU, for boundary PQ; the record must have the latter.

    Raises:
        DataError: a category is not in the table, or listed areas make a union of nothing.
    """
    truth_labels = _labels(record.truth, categories, f"{record.file_name}, ground truth")
    labels = _labels(record.predictions, categories, f"{record.file_name}, prediction")
    crowd = np.array([segment.is_crowd for segment in record.truth], dtype=bool)
    candidates = (record.shared > 0) & (truth_labels[:, None] == labels) & ~crowd[:, None]
    rows, columns = np.nonzero(candidates)
    iou = mask_ious(record, rows, columns)
    if boundary:
        assert record.boundary_iou is not None, "a record for boundary PQ is measured with boundaries"
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
    """(n,) float64 IoUs of the pairs (rows[i], columns[i]), the predictions' void pixels left out of the union."""
    areas = np.array([segment.area for segment in record.truth], dtype=np.int64)[rows]
    shared = record.shared[rows, columns]
    union = record.predicted_pixels[columns] + areas - shared - record.predicted_on_void[columns]
    if (union == 0).any():
        unsized = sorted({record.truth[row].id for row in rows[union == 0].tolist()})
        raise DataError(
            f"{record.file_name}, ground truth: the listed areas of segments {unsized} leave nothing to divide by; "
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
    """(P,) pixels of every prediction on void and on the last crowd segment of its category."""
    ignored = record.predicted_on_void.copy()
    crowd_of_label = {int(truth_labels[row]): row for row in np.flatnonzero(crowd)}
    for column, label in enumerate(labels.tolist()):
        if label in crowd_of_label:
            ignored[column] += record.shared[crowd_of_label[label], column]
    return ignored
