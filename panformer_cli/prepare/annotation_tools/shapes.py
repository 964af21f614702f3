"""What people draw - polygons, boxes, ellipses, masks - as a mask of its own small part of the image.

Coordinates are pixels: (0, 0) is the corner of the first pixel, (0.5, 0.5) its centre, x goes right and y down. No
mask of the whole image is made: an object of a large image costs what its own box costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from panformer_cli.errors import DataError

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]
"""(N, 2) float64: x and y of every point, in pixels."""

Size = tuple[int, int]
"""Height and width of an image, in pixels."""


class Patch(NamedTuple):
    """A mask of a part of the image.

    mask: (h, w) bool.
    top, left: row and column of the image where it begins, 0 or more; all of it lies in the image.
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
    """The pixels inside a polygon, clipped to the image: those that `pycocotools.mask.frPyObjects` gives it.

    points: (N, 2), N of 3 or more; the last is joined to the first. Where the outline crosses itself, what is inside
        twice is outside.
    where: how an error speaks of the polygon: `a.json: polygon 3 (car)`.

    Raises:
        DataError: fewer than 3 points, or points that are no numbers or not in this image.
    """
    if len(points) < 3:
        raise DataError(f"{where} has {len(points)} points; expected 3 or more; draw it again, or take it out")
    _check_near(points, size, where)
    _box_in_image(points, size, where)  # one that is not in the image is an error, not an empty mask
    (runs,) = coco_mask.frPyObjects([points.ravel().tolist()], *size)
    return coco_runs(runs["counts"], size, where)


def rectangle(corners: Points, size: Size, where: str, rotation: float = 0.0) -> Patch:
    """The pixels of a rectangle, as those of a polygon with its four corners.

    corners: (2, 2), two corners that face each other, before the rotation.
    rotation: degrees about the centre, clockwise as the image is shown.

    Raises:
        DataError: as `polygon`.
    """
    _check_near(corners, size, where)
    (x1, y1), (x2, y2) = corners.tolist()
    outline = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    if rotation:
        cosine, sine = _cosine_and_sine(rotation, where)
        centre = corners.mean(axis=0)
        outline = (outline - centre) @ np.array([[cosine, sine], [-sine, cosine]]) + centre
    return polygon(outline, size, where)


def ellipse(center: Sequence[float], radii: Sequence[float], size: Size, where: str, rotation: float = 0.0) -> Patch:
    """The pixels whose centres lie inside an ellipse, clipped to the image.

    center, radii: x and y in pixels; a circle has two equal radii.
    rotation: as in `rectangle`.

    Raises:
        DataError: a number is not finite, or the ellipse is not in this image.
    """
    (x, y), (radius_x, radius_y) = center, radii
    cosine, sine = _cosine_and_sine(rotation, where)
    reach_x = math.hypot(radius_x * cosine, radius_y * sine)
    reach_y = math.hypot(radius_x * sine, radius_y * cosine)
    extent = np.array([[x - reach_x, y - reach_y], [x + reach_x, y + reach_y]])
    _check_near(extent, size, where)
    box = _box_in_image(extent, size, where)
    dx = np.arange(box.left, box.right) + 0.5 - x  # (w,)
    dy = (np.arange(box.top, box.bottom) + 0.5 - y)[:, None]  # (h, 1)
    along, across = dx * cosine + dy * sine, dy * cosine - dx * sine
    # Multiplied out, so that an ellipse without an area has no pixel instead of a division by zero.
    mask = (along * radius_y) ** 2 + (across * radius_x) ** 2 < (radius_x * radius_y) ** 2
    return Patch(mask, box.top, box.left)


def bitmap(mask: Mask, top: int, left: int, size: Size, where: str) -> Patch:
    """A mask that is given pixel by pixel, clipped to the image.

    mask: (h, w) bool, its first pixel at row `top` and column `left`, which may lie outside.

    Raises:
        DataError: all of it lies outside of the image.
    """
    height, width = mask.shape
    box = Box(max(top, 0), max(left, 0), min(top + height, size[0]), min(left + width, size[1]))
    if min(box.size) <= 0:
        raise _outside(where, size)
    inner = mask[box.top - top : box.bottom - top, box.left - left : box.right - left]
    return Patch(inner, box.top, box.left)


def run_lengths(counts: Sequence[int], box: Box, size: Size, where: str) -> Patch:
    """A mask in run lengths, row by row: pixels outside and inside by turns, the first run outside.

    counts: lengths of the runs, together all pixels of `box`.
    box: the part of the image that they fill. (COCO's run lengths go down the columns instead.)

    Raises:
        DataError: the box is not in the image, a length is negative, or they do not fill the box.
    """
    height, width = box.size
    if not (0 <= box.top < box.bottom <= size[0] and 0 <= box.left < box.right <= size[1]):
        raise DataError(
            f"{where} fills {width}x{height} pixels from column {box.left} and row {box.top} on; expected a part of "
            f"its image of {size[1]}x{size[0]} (width x height); export it again"
        )
    if any(count < 0 for count in counts) or sum(counts) != height * width:
        raise DataError(
            f"{where} has run lengths of {sum(counts)} pixels in all; expected lengths of 0 or more that fill its "
            f"{width}x{height} pixels; export it again"
        )
    inside = np.arange(len(counts)) % 2 == 1
    return Patch(np.repeat(inside, counts).reshape(height, width), box.top, box.left)


def coco_runs(text: bytes, size: Size, where: str) -> Patch:
    """A mask out of COCO's compressed run lengths, which go down the columns of the whole image.

    text: the `counts` of what `pycocotools.mask` makes.

    Raises:
        DataError: the text is no such code, or its runs do not fill the image.
    """
    height, width = size
    counts = _decompress(text, where)
    ends = np.cumsum(counts)
    if (counts < 0).any() or ends[-1] != height * width:
        raise DataError(f"{where} has run lengths that do not fill its image of {width}x{height}; export it again")
    starts, stops = ends[:-1:2], ends[1::2]  # of the runs inside: a start at every second border
    starts, stops = starts[stops > starts], stops[stops > starts]
    if not starts.size:
        return Patch(np.zeros((0, 0), np.bool_))
    first, last = starts // height, (stops - 1) // height  # columns of the first and the last pixel
    # A run that goes on in the next column has the lowest and the uppermost pixel of the image.
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


def _decompress(text: bytes, where: str) -> npt.NDArray[np.int64]:
    """The counts of COCO's compressed run lengths (`rleFrString` in its maskApi.c), all digits at once."""
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((digits & 32) == 0)  # 32 says that another digit follows
    if not digits.size or last.size == 0 or last[-1] != digits.size - 1 or (digits < 0).any() or (digits > 63).any():
        raise DataError(f"{where} has run lengths that are no code of COCO's; export it again")
    first = np.concatenate(([0], last[:-1] + 1))
    lengths = last - first + 1
    place = np.arange(digits.size) - np.repeat(first, lengths)
    values = np.add.reduceat((digits & 31) << (5 * place), first)
    values -= np.where(digits[last] & 16, 1 << (5 * lengths), 0)  # 16 in the last digit: it is negative
    # All but the first three are differences to the one before the last.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def union(patches: Sequence[Patch]) -> Patch:
    """One mask of all pixels of the patches, of which there is at least one."""
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


def _check_near(points: Points, size: Size, where: str) -> None:
    """DataError unless the points are finite and at most one image away: farther off they belong to another picture.

    A shape is often drawn a little over the edge. The limit also bounds what drawing an outline costs.
    """
    height, width = size
    if not np.isfinite(points).all():
        raise DataError(f"{where} has a coordinate that is no finite number; expected pixels; draw it again")
    far = (points < (-width, -height)) | (points > (2 * width, 2 * height))
    if far.any():
        x, y = points[far.any(axis=1)][0]
        raise DataError(
            f"{where} reaches to ({x:g}, {y:g}), far outside of its image of {width}x{height} (width x height); "
            "expected coordinates in pixels of this image; check that picture and labels belong together"
        )


def _box_in_image(points: Points, size: Size, where: str) -> Box:
    """The pixels that the points span, clipped to the image; none where they only touch its edge.

    Raises:
        DataError: they lie outside.
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


def _outside(where: str, size: Size) -> DataError:
    return DataError(
        f"{where} is outside its image of {size[1]}x{size[0]} (width x height); expected coordinates in pixels of "
        "this image; check that picture and labels belong together, or take it out"
    )


def _cosine_and_sine(degrees: float, where: str) -> tuple[float, float]:
    if not math.isfinite(degrees):
        raise DataError(f"{where} has a rotation that is no finite number; expected degrees; draw it again")
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
