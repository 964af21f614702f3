"""Boundary IoU of panoptic maps, for boundary PQ.

Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021. A segment's boundary is
its pixels within a distance d of its contour; boundary PQ is PQ with the smaller of mask IoU and boundary IoU.
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
"""The distance d of boundary PQ, as a share of the image's diagonal."""

_VOID, _UNLISTED = 0, -1


def with_boundaries(record: ImageOverlap, prediction: PanopticMap, truth: PanopticMap) -> ImageOverlap:
    """`record`, which is that of the two maps, with `boundary_iou`."""
    return replace(record, boundary_iou=boundary_ious(prediction, truth, record))


def boundary_ious(
    prediction: PanopticMap, truth: PanopticMap, record: ImageOverlap, dilation_ratio: float = DILATION_RATIO
) -> FloatArray:
    """(T, P) float64, 0..1: boundary IoU of the pairs that may match, which is all that the minimum needs; 0 elsewhere.

    A pair may match when its categories agree, its mask IoU is over 0.5 and the ground truth is no crowd. As for
    masks, predicted boundary pixels on void are left out of the union; areas are counted in the map.

    record: `compare(prediction, truth)`.
    dilation_ratio: the distance d as a share of the image's diagonal; at least one pixel.

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
    ious[rows, columns] = shared / union  # a segment's boundary has a pixel, so nothing is divided by 0
    return ious


def _may_match(record: ImageOverlap) -> tuple[IntArray, IntArray]:
    categories = np.array([segment.category_id for segment in record.truth], np.int64)
    guessed = np.array([segment.category_id for segment in record.predictions], np.int64)
    crowd = np.array([segment.is_crowd for segment in record.truth], dtype=bool)
    rows, columns = np.nonzero((record.shared > 0) & (categories[:, None] == guessed) & ~crowd[:, None])
    good = mask_ious(record, rows, columns) > MATCH
    return rows[good], columns[good]


def _boundary_ids(ids: IdMap, distance: int, interior: int) -> IdMap:
    """(H, W): `ids` where they are void or within `distance` of another id or the image's edge, `interior` elsewhere.

    Distance is that of a king on a chessboard. The smallest and the largest id in a square around a pixel differ
    exactly where another id is near: two passes over the image for all its segments together.
    """
    square: npt.NDArray[np.uint8] = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    exact = ids.astype(np.float32)  # ids are below 2^24
    smallest = cv2.erode(exact, square, borderType=cv2.BORDER_CONSTANT, borderValue=-1)  # no id: the edge is a contour
    largest = cv2.dilate(exact, square)
    return np.where((smallest != largest) | (ids == _VOID), ids, np.int32(interior))
