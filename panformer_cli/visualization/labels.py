"""Labels on segments: finding the best position, and drawing.

A label is inside its own segment with all pixels of its box, so labels never overlap.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray
from panformer_cli.visualization.oklab import Colors
from panformer_cli.visualization.text_rendering import Coverage, text_coverage, text_size

Mask = npt.NDArray[np.uint8]
IndexMap = npt.NDArray[np.uint16]
"""(H, W) uint16, see `drawing`."""

SMALLEST_FONT = 9
"""Font size in pixels below which text is hard to read."""

_SEARCH_SIDE = 640
"""Approximate longer side, in cells, of the downscaled map in which positions are searched."""

_FONT_SHARES = (1.0, 0.8, 0.65, 0.5)
"""Font sizes to try, as shares of the usual one."""


@dataclass(frozen=True)
class Label:
    """A label in an image.

    Attributes:
        position: Position of its segment.
        corner: Row and column of the top-left pixel of its box.
        letters: (H, W) uint8 coverage of its box by text, 0..255.
    """

    position: int
    corner: tuple[int, int]
    letters: Coverage


class _Layout(NamedTuple):
    """Lines of text in a font size, with margins at the sides."""

    lines: Sequence[str]
    font: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the box, pixels."""
        sizes = [text_size(line, self.font) for line in self.lines]
        return sum(height for height, _ in sizes), max(width for _, width in sizes) + 2 * (self.font // 3)

    def letters(self) -> Coverage:
        """Return the coverage of the box by text, (H, W) uint8; lines are centered."""
        rows = [text_coverage(line, self.font) for line in self.lines]
        canvas = np.zeros(self.shape, np.uint8)
        for row, view in zip(rows, np.split(canvas, len(rows)), strict=True):
            start = (canvas.shape[1] - row.shape[1]) // 2
            view[:, start : start + row.shape[1]] = row
        return canvas


def font_size(height: int, width: int) -> int:
    """Return the font size in pixels for an image: readable in a small one, proportional in a large one."""
    return max(SMALLEST_FONT, round(4 + max(height, width) / 62))


def draw_labels(image: ImageArray, index: IndexMap, texts: Sequence[Sequence[str]], colors: Colors) -> None:
    """Write the labels of `place_labels` into an image, in place.

    Args:
        image: (H, W, 3) uint8 RGB.
        index: (H, W), see `drawing`.
        texts: The texts of each segment, see `place_labels`.
        colors: (N, 3) colors of the segments; the boxes behind the text are dark shades of them.
    """
    for label in place_labels(index, texts):
        _stamp(image, label, colors[label.position])


def place_labels(index: IndexMap, texts: Sequence[Sequence[str]]) -> Iterator[Label]:
    """Yield a label for the segment where `index` is i + 1, for every segment in which one fits.

    The label is the first of `texts[i]` that fits in one line or two, in the usual font size or a smaller one. Where
    there is room, it is well inside the segment and near the middle of it.
    """
    size = font_size(*index.shape)
    gap = max(1, size // 10)
    step = max(1, max(index.shape) // _SEARCH_SIDE)
    if min(index.shape) < step:  # too thin for any text
        return
    cells = _uniform_cells(index, step)
    for i, region in enumerate(ndimage.find_objects(cells, max_label=len(texts))):
        if region is None:
            continue
        mask = (cells[region] == i + 1).astype(np.uint8)
        for layout in _layouts(texts[i], size):
            height, width = (-(-(side + 2 * gap) // step) for side in layout.shape)
            corner = _best_corner(mask, (height, width))
            if corner is not None:
                y, x = (step * (side.start + own) + gap for side, own in zip(region, corner, strict=True))
                yield Label(i, (y, x), layout.letters())
                break


def _uniform_cells(index: IndexMap, step: int) -> IndexMap:
    """Return the value of every cell of step x step pixels, 0 for a cell with several values."""
    if step == 1:
        return np.ascontiguousarray(index)
    height, width = (side // step * step for side in index.shape)
    index = index[:height, :width]
    lowest, highest = (_reduced(extreme, index, step) for extreme in (np.minimum, np.maximum))
    return np.where(lowest == highest, lowest, np.uint16(0))


def _reduced(extreme: np.ufunc, index: IndexMap, step: int) -> IndexMap:
    """Return the minimum or maximum of every cell of step x step pixels."""
    rows: IndexMap = reduce(extreme, (index[first::step] for first in range(step)))
    return np.ascontiguousarray(reduce(extreme, (rows[:, first::step] for first in range(step))))


def _layouts(texts: Sequence[str], size: int) -> Iterator[_Layout]:
    """Yield the forms of a label, the best first: every text in one line and in two, in each font size."""
    fonts = dict.fromkeys(max(SMALLEST_FONT, round(share * size)) for share in _FONT_SHARES)
    for text, font in itertools.product(texts, fonts):
        yield _Layout((text,), font)
        if (lines := _in_two_lines(text)) is not None:
            yield _Layout(lines, font)


def _in_two_lines(text: str) -> tuple[str, str] | None:
    """Return the two most equal lines of a text; None if it has no space or hyphen.

    >>> _in_two_lines("sky-other-merged 80%")
    ('sky-other-', 'merged 80%')
    """
    breaks = [match.end() for match in re.finditer(r"(?<=\S)[ -](?=\S)", text)]
    if not breaks:
        return None
    middle = min(breaks, key=lambda end: abs(2 * end - len(text)))
    return text[:middle].rstrip(), text[middle:]


def _best_corner(mask: Mask, box: tuple[int, int]) -> tuple[int, int] | None:
    """Return the best top-left corner of a box (height, width) inside the mask; None if the box does not fit.

    The best box has the most room around it, up to its own height, and is near the middle of the mask.
    """
    if mask.shape[0] < box[0] or mask.shape[1] < box[1]:
        return None
    fits = (_box_sums(mask, box) == box[0] * box[1]).astype(np.uint8)
    if not fits.any():
        return None
    room = cv2.distanceTransform(cv2.copyMakeBorder(fits, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0), cv2.DIST_L2, 3)
    room = np.minimum(room[1:-1, 1:-1], box[0])
    rows, columns = (np.arange(n, dtype=np.float32) for n in fits.shape)
    moments = cv2.moments(fits, binaryImage=True)
    y, x = moments["m01"] / moments["m00"], moments["m10"] / moments["m00"]
    away = np.hypot((rows - y)[:, None], columns - x) * (0.2 * box[0] / max(mask.shape))
    best = np.where(fits, room - away, -np.inf).argmax()
    row, column = np.unravel_index(best, fits.shape)
    return int(row), int(column)


def _box_sums(mask: Mask, box: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Return the number of ones in a box, for each top-left corner: (H - h + 1, W - w + 1)."""
    sums, (height, width) = cv2.integral(mask), box
    return np.asarray(
        sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width], np.int32
    )


def _stamp(image: ImageArray, label: Label, color: npt.NDArray[np.uint8]) -> None:
    """Draw white text on a dark, translucent, rounded box."""
    (y, x), (height, width) = label.corner, label.letters.shape
    view = image[y : y + height, x : x + width]
    box = 0.72 * _round_box(height, width)[:, :, None]
    ink = label.letters[:, :, None] / np.float32(255)
    ground = (1 - box) * view + box * (0.22 * color.astype(np.float32))
    view[:] = np.round((1 - ink) * ground + ink * 255)


def _round_box(height: int, width: int) -> npt.NDArray[np.float32]:
    """Return the coverage of each pixel by a rounded box, 0..1: (height, width)."""
    radius = min(height, width) / 4
    y, x = (
        np.maximum(abs(np.arange(n, dtype=np.float32) + 0.5 - n / 2) - (n / 2 - radius), 0) for n in (height, width)
    )
    return np.asarray(np.clip(radius + 0.5 - np.hypot(y[:, None], x[None]), 0, 1), np.float32)
