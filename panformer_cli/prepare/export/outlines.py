"""Outlines of segments along the edges of their pixels, which rasterize back to exactly the same pixels.

`cv2.findContours` is not used: its contours run through the centers of pixels, so that `pycocotools` drops the last row
and column of a segment, and all of a segment that is one pixel wide.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from panformer_cli.data.opencv import cv2
from panformer_cli.prepare.annotation_tools.shapes import Mask, Points, Size, polygon


class Part(NamedTuple):
    """A connected part of a segment; pixels that touch only at a corner are connected.

    Attributes:
        outer: Its outline.
        holes: The outlines of its holes.
    """

    outer: Points
    holes: tuple[Points, ...] = ()


def trace(mask: Mask) -> list[Part]:
    """Return the parts of a mask, (h, w) bool, from top to bottom.

    Points are corners of pixels: (0, 0) is the corner of the first pixel and (w, h) of the last one. Only points where
    the outline turns are listed. By the even-odd rule, the outlines contain the centers of exactly the pixels of the
    mask.
    """
    padded = np.pad(mask, 1)
    corners = _corners(padded)
    components = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1]
    outer: dict[int, Points] = {}
    holes: defaultdict[int, list[Points]] = defaultdict(list)
    for ring in _rings(corners):
        x, y = ring[0].astype(int).tolist()  # the leftmost of the topmost corners
        if padded[y + 1, x + 1]:  # the pixel below is inside of the ring
            outer[components[y, x]] = ring
        else:
            holes[components[y - 1, x]].append(ring)
    return [Part(ring, tuple(holes[number])) for number, ring in outer.items()]


def _corners(padded: Mask) -> npt.NDArray[np.int64]:
    """Return where outlines turn: rows of x, y and two sort keys, as `_rings` needs them.

    Where two pixels touch at a corner, there are two turns. The keys mark which of them is on the line to the left (0)
    or right (1), and on the line above (0) or below (1), so that the outline stays on one side of the other two pixels.
    """
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    falls, rises = a & d & ~b & ~c, b & c & ~a & ~d
    rows = []
    for where, beside, above in (
        ((a ^ b ^ c ^ d), 0, 0),
        (falls, 0, 1),
        (falls, 1, 0),
        (rises, 0, 0),
        (rises, 1, 1),
    ):
        y, x = np.nonzero(where)
        rows.append(np.stack([x, y, np.full_like(x, beside), np.full_like(x, above)], axis=1))
    return np.concatenate(rows)


def _rings(corners: npt.NDArray[np.int64]) -> list[Points]:
    """Return closed outlines, (N, 2) float64, each starting at the leftmost of its topmost corners."""
    x, y, beside, above = corners.T
    # Lines are between the first and second, third and fourth, ... corner of each row and of each column.
    by_row, by_column = np.lexsort((beside, x, y)), np.lexsort((above, y, x))
    across, along = _partners(by_row), _partners(by_column)
    points, is_used, rings = corners[:, :2].astype(np.float64), bytearray(len(corners)), []
    for start in by_row.tolist():
        ring, at = [], start
        while not is_used[at]:
            other = across[at]
            is_used[at] = is_used[other] = True
            ring += [at, other]
            at = along[other]
        if ring:
            rings.append(points[ring])
    return rings


def _partners(order: npt.NDArray[np.intp]) -> list[int]:
    """Return for each corner the other end of its line."""
    partners = np.empty(len(order), np.intp)
    partners[order[0::2]], partners[order[1::2]] = order[1::2], order[0::2]
    found: list[int] = partners.tolist()
    return found


def simplified(parts: Sequence[Part], size: Size, tolerance: float) -> list[Part]:
    """Return the parts with fewer points, each at most `tolerance` pixels from the removed ones (Douglas-Peucker).

    Outlines of fewer than 3 points and parts without pixels keep all points.

    Args:
        parts: Exact outlines, as `trace` returns them.
        size: Height and width of the mask.
        tolerance: In pixels.
    """
    fewer = [
        Part(_fewer(part.outer, tolerance), tuple(_fewer(hole, tolerance) for hole in part.holes)) for part in parts
    ]
    return [new if _pixels(new, size).any() else part for part, new in zip(parts, fewer, strict=True)]


def _fewer(ring: Points, tolerance: float) -> Points:
    found = cv2.approxPolyDP(ring.astype(np.float32)[:, None], tolerance, closed=True)[:, 0]
    return found.astype(np.float64) if len(found) >= 3 else ring


def changed_pixels(parts: Sequence[Part], mask: Mask) -> int:
    """Return in how many pixels the rasterized parts differ from a mask, as the conversions rasterize them."""
    found = np.zeros_like(mask)
    for part in parts:
        found |= _pixels(part, mask.shape)
    return int((found ^ mask).sum())


def _pixels(part: Part, size: Size) -> Mask:
    """Return the pixels of a part, (h, w) bool, by the even-odd rule."""
    inside = np.zeros(size, np.bool_)
    for ring in (part.outer, *part.holes):
        patch = polygon(ring, size, "an outline")
        height, width = patch.mask.shape
        inside[patch.top : patch.top + height, patch.left : patch.left + width] ^= patch.mask
    return inside


def joined(rings: Sequence[Points]) -> Points:
    """Return one polygon through all rings: from the nearest point of the first ring, a line leads to each other ring
    and back.

    The lines have no area, so by the even-odd rule the polygon contains the same pixels as the rings.
    """
    first, *others = rings
    if not others:
        return first
    from scipy.spatial import cKDTree  # takes a quarter of a second to import

    detours: defaultdict[int, list[Points]] = defaultdict(list)
    tree = cKDTree(first)
    for ring in others:
        distances, indices = tree.query(ring)
        start = int(distances.argmin())
        detours[int(indices[start])] += [np.roll(ring, -start, axis=0), ring[start : start + 1]]
    pieces, end = [], 0
    for index in sorted(detours):
        pieces.append(first[end : index + 1])
        for ring, back in zip(detours[index][0::2], detours[index][1::2], strict=True):
            pieces += [ring, back, first[index : index + 1]]
        end = index + 1
    points = np.concatenate([*pieces, first[end:]])
    return np.asarray(points[(points != np.roll(points, 1, axis=0)).any(axis=1)])  # no point twice in a row


def as_one(parts: Sequence[Part]) -> Points:
    """Return one polygon with all parts and their holes, as `joined`; the largest part is the first ring."""
    by_size = sorted(parts, key=lambda part: -len(part.outer))
    return joined([joined([part.outer, *part.holes]) for part in by_size])
