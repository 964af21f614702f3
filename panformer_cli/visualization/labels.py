"""Labels on segments: finding the best position, and drawing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray
from panformer_cli.visualization.oklab import Colors
from panformer_cli.visualization.text_rendering import text_coverage

Mask = npt.NDArray[np.uint8]

_SEARCH_SIDE = 640
"""Approximate longer side, in pixels, of the downscaled map in which positions are searched."""

_INSIDE = 0.6
"""Minimum fraction of a label's box that is on its own segment."""


def font_size(height: int, width: int) -> int:
    """Return the font size in pixels for an image: readable in a small one, proportional in a large one."""
    return max(9, round(4 + max(height, width) / 62))


def draw_labels(image: ImageArray, index: npt.NDArray[np.uint16], texts: Sequence[str], colors: Colors) -> None:
    """Write `texts[i]` on the pixels where `index` is i + 1, in place.

    Labels are placed well inside their segments. A label that does not fit, or that overlaps the label of a larger
    segment, is left out.

    Args:
        image: (H, W, 3) uint8 RGB.
        index: (H, W), see `drawing`.
        texts: One text per segment.
        colors: (N, 3) colors of the segments; the boxes behind the text are dark shades of them.
    """
    size = font_size(*index.shape)
    step = max(1, max(index.shape) // _SEARCH_SIDE)
    small = np.ascontiguousarray(index[::step, ::step])
    taken = np.zeros(small.shape, np.uint8)
    regions = ndimage.find_objects(small, max_label=len(texts))
    areas = np.bincount(small.ravel(), minlength=len(texts) + 1)[1:]
    for i in np.argsort(-areas, kind="stable"):
        if regions[i] is None:
            continue
        letters = text_coverage(texts[i], size)
        letters = np.pad(letters, ((0, 0), (size // 3, size // 3)))
        height, width = -(-letters.shape[0] // step), -(-letters.shape[1] // step)
        corner = _best_corner(small, taken, int(i) + 1, regions[i], (height, width))
        if corner is not None:
            taken[corner[0] : corner[0] + height, corner[1] : corner[1] + width] = 1
            _stamp(image, letters, (corner[0] * step, corner[1] * step), colors[i])


def _best_corner(
    small: npt.NDArray[np.uint16], taken: Mask, i: int, region: tuple[slice, slice], box: tuple[int, int]
) -> tuple[int, int] | None:
    """Return the best top-left corner for a box (height, width) on segment `i`; None if the box does not fit."""
    rows, columns = (
        slice(max(0, side.start - length), side.stop + length) for side, length in zip(region, box, strict=True)
    )
    mask = (small[rows, columns] == i).astype(np.uint8)
    if mask.shape[0] < box[0] or mask.shape[1] < box[1]:
        return None
    inside = _box_sums(mask, box) / (box[0] * box[1])
    free = (inside >= _INSIDE) & (_box_sums(taken[rows, columns], box) == 0)
    if not free.any():
        return None
    # Zeros around the mask make the image edge a border.
    depth = cv2.distanceTransform(cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0), cv2.DIST_L2, 5)
    at_center = depth[1 + box[0] // 2 :, 1 + box[1] // 2 :][: inside.shape[0], : inside.shape[1]]
    best = np.where(free, (1 + at_center) * inside**2, 0).argmax()
    y, x = np.unravel_index(best, inside.shape)
    return rows.start + int(y), columns.start + int(x)


def _box_sums(mask: Mask, box: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Return the number of ones in a box, for each top-left corner: (H - h + 1, W - w + 1)."""
    sums, (height, width) = cv2.integral(mask), box
    return np.asarray(
        sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width], np.int32
    )


def _stamp(image: ImageArray, letters: Mask, corner: tuple[int, int], color: npt.NDArray[np.uint8]) -> None:
    """Draw white text on a dark, translucent, rounded box; the box is moved inside the image."""
    y, x = (min(start, full - own) for start, full, own in zip(corner, image.shape[:2], letters.shape, strict=True))
    view = image[y : y + letters.shape[0], x : x + letters.shape[1]]
    box = 0.72 * _round_box(*letters.shape)[:, :, None]
    ink = letters[:, :, None] / np.float32(255)
    ground = (1 - box) * view + box * (0.22 * color.astype(np.float32))
    view[:] = np.round((1 - ink) * ground + ink * 255)


def _round_box(height: int, width: int) -> npt.NDArray[np.float32]:
    """Return the coverage of each pixel by a rounded box, 0..1: (height, width)."""
    radius = min(height, width) / 4
    y, x = (
        np.maximum(abs(np.arange(n, dtype=np.float32) + 0.5 - n / 2) - (n / 2 - radius), 0) for n in (height, width)
    )
    return np.asarray(np.clip(radius + 0.5 - np.hypot(y[:, None], x[None]), 0, 1), np.float32)
