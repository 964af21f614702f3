"""Boundary IoU of panoptic maps, for boundary PQ.

Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021. The boundary of a
segment is its pixels within a distance d of its contour. Boundary PQ is PQ with the minimum of mask IoU and boundary
IoU.
Letters for shapes: T ground truth segments, P predicted segments of an image.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np
import numpy.typing as npt

from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import IdMap, PanopticMap
from panformer_cli.metrics.image_overlap import FloatArray, ImageOverlap, IntArray, compare
from panformer_cli.metrics.matching import MATCH, mask_ious

DILATION_RATIO = 0.02
"""The distance d of boundary PQ, as a fraction of the image diagonal."""

_VOID, _UNLISTED = 0, -1


def with_boundaries(record: ImageOverlap, prediction: PanopticMap, truth: PanopticMap) -> ImageOverlap:
    """Return `record`, the overlap of the two maps, with `boundary_iou`."""
    return replace(record, boundary_iou=boundary_ious(prediction, truth, record))


def boundary_ious(
    prediction: PanopticMap, truth: PanopticMap, record: ImageOverlap, dilation_ratio: float = DILATION_RATIO
) -> FloatArray:
    """Return the boundary IoU of the pairs that can match, (T, P) float64 in 0..1; 0 elsewhere.

    A pair can match if the categories agree, the mask IoU is above 0.5 and the ground truth is not a crowd. As for
    masks, predicted boundary pixels on void are excluded from the union; areas are counted in the map.

    Args:
        prediction: the predicted map.
        truth: the ground truth map.
        record: `compare(prediction, truth)`.
        dilation_ratio: the distance d as a fraction of the image diagonal; at least one pixel.

    Raises:
        DataError: as `mask_ious`.
    """
    rows, columns = _may_match(record)
    ious = np.zeros(record.shared.shape)
    if not len(rows):
        return ious
    distance = max(1, round(dilation_ratio * sqrt(truth.ids.shape[0] ** 2 + truth.ids.shape[1] ** 2)))
    edges = compare(
        replace(prediction, ids=_boundary_ids(prediction.ids, distance, interior=_VOID)),
        replace(truth, ids=_boundary_ids(truth.ids, distance, interior=_UNLISTED)),
    )
    shared = edges.shared[rows, columns]
    union = edges.truth_pixels[rows] + edges.predicted_pixels[columns] - shared - edges.predicted_on_void[columns]
    ious[rows, columns] = shared / union  # every boundary has a pixel, so the union is never 0
    return ious


def _may_match(record: ImageOverlap) -> tuple[IntArray, IntArray]:
    categories = np.array([segment.category_id for segment in record.truth], np.int64)
    predicted = np.array([segment.category_id for segment in record.predictions], np.int64)
    crowd = np.array([segment.is_crowd for segment in record.truth], dtype=bool)
    rows, columns = np.nonzero((record.shared > 0) & (categories[:, None] == predicted) & ~crowd[:, None])
    good = mask_ious(record, rows, columns) > MATCH
    return rows[good], columns[good]


def _boundary_ids(ids: IdMap, distance: int, interior: int) -> IdMap:
    """Return `ids` on void and within `distance` of another id or of the image border, `interior` elsewhere.

    The distance is the chessboard distance. Minimum and maximum of the ids in a square around a pixel differ exactly if
    another id is near, so two passes over the image handle all segments.
    """
    square: npt.NDArray[np.uint8] = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    exact = ids.astype(np.float32)  # ids are below 2^24
    # The border value -1 is not an id, so the image border is a contour.
    smallest = cv2.erode(exact, square, borderType=cv2.BORDER_CONSTANT, borderValue=-1)
    largest = cv2.dilate(exact, square)
    return np.where((smallest != largest) | (ids == _VOID), ids, np.int32(interior))
