"""Outlines of segments: smooth, anti-aliased curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray
from panformer_cli.visualization.labels import IndexMap
from panformer_cli.visualization.oklab import Colors

Curve = npt.NDArray[np.float32]
"""(N, 2) float32: x and y of the points of a closed curve."""

_SIDE = 3200
"""Longer side, in cells, above which outlines are found in a downscaled map."""

_FEWEST_POINTS = 4
"""Specks with fewer pixels along their edge have no outline; noise has hundreds of thousands of them."""

_SHIFT = 4
"""Bits of the fraction of a pixel in OpenCV's coordinates."""


def line_width(height: int, width: int) -> float:
    """Return the width of outlines in pixels: 1 per 800 pixels of the longer side of an image."""
    return max(height, width) / 800


def draw_contours(image: ImageArray, index: IndexMap, colors: Colors) -> None:
    """Draw the outline of every segment in a lighter shade of its color, in place.

    The edge of the image is no outline. In a small image, lines get fainter instead of thinner than a pixel.

    Args:
        image: (H, W, 3) uint8 RGB.
        index: (H, W), see `drawing`.
        colors: (1 + N, 3) colors of void and the segments.
    """
    width = line_width(*index.shape)
    strength = min(1.0, 0.3 + width)
    lines = image.copy() if strength < 1 else image
    for position, curves in outlines(index, len(colors) - 1, width):
        red, green, blue = (255 - 0.45 * (255.0 - colors[position])).tolist()
        draw_curves(lines, curves, (red, green, blue), width)
    if lines is not image:
        image[:] = cv2.addWeighted(image, 1 - strength, lines, strength, 0)


def draw_curves(image: ImageArray, curves: Sequence[Curve], color: tuple[float, float, float], width: float) -> None:
    """Draw anti-aliased closed curves, in place, with lines of `width` pixels, at least 1."""
    fixed = [np.round(curve * 2**_SHIFT).astype(np.int32) for curve in curves]
    cv2.polylines(image, fixed, True, color, max(1, round(width)), cv2.LINE_AA, _SHIFT)


def outlines(index: IndexMap, count: int, width: float) -> Iterator[tuple[int, list[Curve]]]:
    """Yield position, 1 .. count, and the curves around pixels and holes of every segment, the largest first.

    Curves are suited for lines of `width` pixels: those are outside of the image along its edge.
    """
    step = -(-max(index.shape) // _SIDE)
    top, left = (min(step // 2, side - 1) for side in index.shape)
    # Segments continue beyond the image, so that their outlines along its edge are not visible.
    margin = math.ceil(width / step) + 2
    passes = max(3, round(3 * width / step))
    cells = cv2.copyMakeBorder(
        np.ascontiguousarray(index[top::step, left::step]),
        *(margin,) * 4,
        borderType=cv2.BORDER_REPLICATE,
    )
    regions = ndimage.find_objects(cells, max_label=count)
    areas = np.bincount(cells.ravel(), minlength=count + 1)
    areas[0] = 0  # void has no outline
    for position in np.argsort(-areas, kind="stable")[: np.count_nonzero(areas)].tolist():
        region = regions[position - 1]
        mask = (cells[region] == position).astype(np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        contours = [contour for contour in contours if len(contour) >= _FEWEST_POINTS]
        if not contours:
            continue
        corner = np.array([side.start - margin for side in region[::-1]], np.float32)
        yield position, [(curve + corner) * step + (left, top) for curve in _smoothed(contours, passes)]


def _smoothed(contours: Sequence[npt.NDArray[Any]], passes: int) -> list[Curve]:
    """Return closed contours, (N, 1, 2) pixels each, without the steps between their pixels.

    Every pass filters along the contour with (1, 2, 1) / 4.
    """
    lengths = np.array([len(contour) for contour in contours])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    points = np.concatenate(contours)[:, 0].astype(np.float32)
    before, after = np.arange(-1, len(points) - 1), np.arange(1, len(points) + 1)
    before[starts], after[ends - 1] = ends - 1, starts
    for _ in range(passes):
        points = (points[before] + 2 * points + points[after]) * np.float32(0.25)
    return np.split(points, ends[:-1])
