"""Rasterize polygons, boxes, ellipses and masks, each into a crop of the image.

Coordinates are pixels: (0, 0) is the corner of the first pixel, (0.5, 0.5) its center, x points right and y down. No
mask of the whole image is created, so the cost of an object depends on its own box, not on the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from panformer_cli.prepare.compressed_rle import decompress
from panformer_cli.prepare.left_out import (
    BAD_COORDINATES,
    BAD_RUNS,
    FEW_POINTS,
    FRACTIONS,
    OUTSIDE,
    AnnotationError,
    NoAreaError,
)
from panformer_cli.wording import counted

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]
"""(N, 2) float64: x and y of each point, in pixels."""

Size = tuple[int, int]
"""Height and width of an image in pixels."""


class Patch(NamedTuple):
    """A mask of a part of the image.

    Attributes:
        mask: (h, w) bool, entirely inside the image.
        top: First row in the image.
        left: First column in the image.
    """

    mask: Mask
    top: int = 0
    left: int = 0


class Box(NamedTuple):
    """Rows and columns `top <= row < bottom`, `left <= column < right`."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> Size:
        return self.bottom - self.top, self.right - self.left


def polygon(points: Points, size: Size, where: str) -> Patch:
    """Return the pixels inside a polygon, clipped to the image, as in `pycocotools.mask.frPyObjects`.

    Args:
        points: (N, 2), N >= 3; the last point is joined to the first. Where the outline crosses itself, the even-odd
            rule applies.
        size: Height and width of the image.
        where: The polygon's name in error messages, such as `a.json: polygon 3 (car)`.

    Raises:
        DataError: There are fewer than 3 points, or points that are not finite or not in the image.
    """
    if len(points) < 3:
        raise AnnotationError(
            f"{where} has {counted(len(points), 'point')}; expected 3 or more; draw it again, or remove it", FEW_POINTS
        )
    _check_near(points, size, where)
    _box_in_image(points, size, where)  # a polygon outside of the image is an error, not an empty mask
    (runs,) = coco_mask.frPyObjects([points.ravel().tolist()], *size)
    return coco_runs(runs["counts"], size, where)


def rectangle(corners: Points, size: Size, where: str, rotation: float = 0.0) -> Patch:
    """Return the pixels of a rectangle, as those of a polygon with its four corners.

    Args:
        corners: (2, 2), two opposite corners before rotation.
        size: Height and width of the image.
        where: The rectangle's name in error messages.
        rotation: Degrees about the center, clockwise in the displayed image.

    Raises:
        DataError: As in `polygon`.
    """
    _check_near(corners, size, where)
    (x1, y1), (x2, y2) = corners.tolist()
    outline = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    if rotation:
        cosine, sine = _cosine_and_sine(rotation, where)
        center = corners.mean(axis=0)
        outline = (outline - center) @ np.array([[cosine, sine], [-sine, cosine]]) + center
    return polygon(outline, size, where)


def ellipse(center: Sequence[float], radii: Sequence[float], size: Size, where: str, rotation: float = 0.0) -> Patch:
    """Return the pixels whose centers are inside an ellipse, clipped to the image.

    Args:
        center: x and y in pixels.
        radii: x and y in pixels, 0 or more; equal for a circle.
        size: Height and width of the image.
        where: The ellipse's name in error messages.
        rotation: As in `rectangle`.

    Raises:
        DataError: A number is not finite, a radius is negative, or the ellipse is not in the image.
    """
    (x, y), (radius_x, radius_y) = center, radii
    if min(radii) < 0:
        raise AnnotationError(f"{where} has the radius {min(radii):g}; expected 0 or more; draw it again")
    cosine, sine = _cosine_and_sine(rotation, where)
    reach_x = math.hypot(radius_x * cosine, radius_y * sine)
    reach_y = math.hypot(radius_x * sine, radius_y * cosine)
    extent = np.array([[x - reach_x, y - reach_y], [x + reach_x, y + reach_y]])
    _check_near(extent, size, where)
    box = _box_in_image(extent, size, where)
    dx = np.arange(box.left, box.right) + 0.5 - x  # (w,)
    dy = (np.arange(box.top, box.bottom) + 0.5 - y)[:, None]  # (h, 1)
    along, across = dx * cosine + dy * sine, dy * cosine - dx * sine
    # Multiplied out, so that an ellipse without area has no pixels instead of a division by zero.
    mask = (along * radius_y) ** 2 + (across * radius_x) ** 2 < (radius_x * radius_y) ** 2
    return Patch(mask, box.top, box.left)


def bitmap(mask: Mask, top: int, left: int, size: Size, where: str) -> Patch:
    """Return a mask, (h, w) bool, at row `top` and column `left`, clipped to the image.

    Raises:
        DataError: The mask is entirely outside of the image.
    """
    height, width = mask.shape
    box = Box(max(top, 0), max(left, 0), min(top + height, size[0]), min(left + width, size[1]))
    if min(box.size) <= 0:
        raise _outside(where, size)
    inner = mask[box.top - top : box.bottom - top, box.left - left : box.right - left]
    return Patch(inner, box.top, box.left)


def run_lengths(counts: Sequence[int], box: Box, size: Size, where: str) -> Patch:
    """Return the mask of row-major run lengths, which alternate between outside and inside and start outside.

    Args:
        counts: Run lengths that add up to the number of pixels in `box`. (COCO's run lengths are column-major.)
        box: The part of the image that they fill.
        size: Height and width of the image.
        where: The mask's name in error messages.

    Raises:
        DataError: The box is not in the image, a length is negative, or the lengths do not fill the box.
    """
    height, width = box.size
    if not (0 <= box.top < box.bottom <= size[0] and 0 <= box.left < box.right <= size[1]):
        raise AnnotationError(
            f"{where} fills {width}x{height} pixels starting at column {box.left} and row {box.top}; expected a part "
            f"of its {size[1]}x{size[0]} image (width x height); export it again",
            BAD_RUNS,
        )
    if any(count < 0 for count in counts) or sum(counts) != height * width:
        raise AnnotationError(
            f"{where} has run lengths of {sum(counts)} pixels in total; expected lengths of 0 or more that fill its "
            f"{width}x{height} pixels; export it again",
            BAD_RUNS,
        )
    inside = np.arange(len(counts)) % 2 == 1
    return Patch(np.repeat(inside, counts).reshape(height, width), box.top, box.left)


def coco_runs(text: bytes, size: Size, where: str) -> Patch:
    """Return the mask of COCO's compressed run lengths, which are column-major over the whole image.

    Args:
        text: The `counts` that `pycocotools.mask` returns.
        size: Height and width of the image.
        where: The mask's name in error messages.

    Raises:
        DataError: The text is not a valid encoding, or its runs do not fill the image.
    """
    height, width = size
    counts = decompress(text)
    if counts is None:
        raise AnnotationError(f"{where} has run lengths that are not in COCO's encoding; export it again", BAD_RUNS)
    ends = np.cumsum(counts)
    if (counts < 0).any() or ends[-1] != height * width:
        raise AnnotationError(
            f"{where} has run lengths that do not fill its {width}x{height} image; export it again", BAD_RUNS
        )
    starts, stops = ends[:-1:2], ends[1::2]  # every second run is inside
    starts, stops = starts[stops > starts], stops[stops > starts]
    if not starts.size:
        return Patch(np.zeros((0, 0), np.bool_))
    first, last = starts // height, (stops - 1) // height  # columns of the first and the last pixel
    # A run that continues in the next column touches the bottom and the top row of the image.
    top, bottom = int((starts % height).min()), int(((stops - 1) % height).max()) + 1
    if (first < last).any():
        top, bottom = 0, height
    left, right = int(first.min()), int(last.max()) + 1
    shape = (right - left, bottom - top)
    begins = (first - left) * shape[1] + starts % height - top
    changes = np.zeros(shape[0] * shape[1] + 1, np.int8)
    changes[begins] += 1
    changes[begins + stops - starts] -= 1
    return Patch(np.cumsum(changes[:-1], dtype=np.int8).view(np.bool_).reshape(shape).T, top, left)


def union(patches: Sequence[Patch]) -> Patch:
    """Return the union of one or more patches."""
    if len(patches) == 1:
        return patches[0]
    top, left = min(patch.top for patch in patches), min(patch.left for patch in patches)
    bottom = max(patch.top + patch.mask.shape[0] for patch in patches)
    right = max(patch.left + patch.mask.shape[1] for patch in patches)
    mask = np.zeros((bottom - top, right - left), np.bool_)
    for patch in patches:
        y, x = patch.top - top, patch.left - left
        mask[y : y + patch.mask.shape[0], x : x + patch.mask.shape[1]] |= patch.mask
    return Patch(mask, top, left)


def check_not_fractions(points: Sequence[float], size: Size, where: str) -> None:
    """Raise a NoAreaError if coordinates that should be pixels are fractions of the image size, as in YOLO's files.

    All of them are from 0 to 1, and some are no whole numbers. A shape of pixels with such coordinates is in the corner
    pixel, and is left out as well: it has no pixels, or one.

    Args:
        points: The coordinates of all points, x and y in any order.
        size: Height and width of the image.
        where: The shape's name in error messages.
    """
    within_a_pixel = all(0 <= number <= 1 for number in points)
    if within_a_pixel and any(number not in (0, 1) for number in points) and min(size) > 2:
        raise NoAreaError(
            f"{where} has only coordinates from 0 to 1, such as {next(n for n in points if n not in (0, 1)):g}; "
            f"expected pixels; if they are fractions of the {size[1]}x{size[0]} image, multiply them by its size",
            FRACTIONS,
        )


def _check_near(points: Points, size: Size, where: str) -> None:
    """Raise a DataError unless the points are finite and at most one image size outside of the image.

    Shapes often extend slightly over the edge; points farther away belong to another image. The limit also bounds the
    cost of drawing an outline.
    """
    height, width = size
    if not np.isfinite(points).all():
        raise AnnotationError(f"{where} has a non-finite coordinate; expected pixels; draw it again", BAD_COORDINATES)
    far = (points < (-width, -height)) | (points > (2 * width, 2 * height))
    if far.any():
        x, y = points[far.any(axis=1)][0]
        raise AnnotationError(
            f"{where} extends to ({x:g}, {y:g}), far outside of its {width}x{height} image (width x height); "
            "expected coordinates in pixels of this image; check that image and labels belong together",
            OUTSIDE,
        )


def _box_in_image(points: Points, size: Size, where: str) -> Box:
    """Return the box that the points span, clipped to the image; empty if they only touch its edge.

    Raises:
        DataError: The points are outside of the image.
    """
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    if left > size[1] or top > size[0] or right < 0 or bottom < 0:
        raise _outside(where, size)
    return Box(
        max(math.floor(top), 0),
        max(math.floor(left), 0),
        min(math.floor(bottom) + 1, size[0]),
        min(math.floor(right) + 1, size[1]),
    )


def _outside(where: str, size: Size) -> AnnotationError:
    return AnnotationError(
        f"{where} is outside of its {size[1]}x{size[0]} image (width x height); expected coordinates in pixels of this "
        "image; check that image and labels belong together, or remove it",
        OUTSIDE,
    )


def _cosine_and_sine(degrees: float, where: str) -> tuple[float, float]:
    if not math.isfinite(degrees):
        raise AnnotationError(f"{where} has a non-finite rotation; expected degrees; draw it again")
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
