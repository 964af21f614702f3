"""Tiles of a large image: where they are, which part of the image each one decides, and their blending weights."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from panformer_cli.models.candidates import Floats


@dataclass(frozen=True)
class Rectangle:
    """Rows `top` to `bottom` and columns `left` to `right` of an image, in pixels, without the last row and column."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self.bottom - self.top, self.right - self.left

    def intersection(self, other: Rectangle) -> Rectangle | None:
        """Return the pixels in both rectangles; None if there are none."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Rectangle(top, left, bottom, right) if top < bottom and left < right else None

    def within(self, outer: Rectangle) -> tuple[slice, slice]:
        """Return the index of this rectangle in an array of the pixels of `outer`, which contains it."""
        rows = slice(self.top - outer.top, self.bottom - outer.top)
        return rows, slice(self.left - outer.left, self.right - outer.left)


@dataclass(frozen=True)
class Axis:
    """Intervals of equal length that cover one side of an image.

    Attributes:
        starts: first pixel of each interval, ascending.
        length: length of the intervals in pixels.
        total: length of the side.
    """

    starts: tuple[int, ...]
    length: int
    total: int

    @classmethod
    def of(cls, total: int, tile: int, overlap: int) -> Axis:
        """Return as few intervals as possible, evenly spaced; the last one ends at the edge.

        Args:
            total: length of the side in pixels.
            tile: length of an interval; a shorter side has one interval.
            overlap: least number of pixels that adjacent intervals share, less than `tile`.
        """
        free = max(total - tile, 0)
        steps = -(-free // (tile - overlap))
        starts = tuple(free * number // steps for number in range(steps + 1)) if steps else (0,)
        return cls(starts, min(tile, total), total)

    @cached_property
    def cuts(self) -> tuple[int, ...]:
        """The borders of the parts that the intervals decide: the middles of the shared strips, 0, and `total`."""
        middles = [
            (first + self.length + second) // 2 for first, second in zip(self.starts, self.starts[1:], strict=False)
        ]
        return (0, *middles, self.total)

    def touching(self, first: int, end: int) -> range:
        """Return the intervals that contain a pixel of `first` to `end`, without `end`."""
        return range(bisect_right(self.starts, first - self.length), bisect_left(self.starts, end))

    def window(self, number: int) -> Floats:
        """Return the weights of an interval's pixels, (length,), in 0..1.

        They rise linearly over the strips shared with adjacent intervals. Where two intervals overlap, the sum is 1.
        """
        ramp = np.arange(self.length, dtype=np.float32) + np.float32(0.5)
        weights = np.ones(self.length, np.float32)
        if number > 0:
            shared = self.starts[number - 1] + self.length - self.starts[number]
            weights = np.minimum(weights, ramp / shared)
        if number + 1 < len(self.starts):
            shared = self.starts[number] + self.length - self.starts[number + 1]
            weights = np.minimum(weights, ramp[::-1] / shared)
        return weights.astype(np.float32)


@dataclass(frozen=True)
class Grid:
    """The tiles of an image, numbered row by row. All have the same size, so padding is never needed."""

    rows: Axis
    columns: Axis

    @classmethod
    def of(cls, size: tuple[int, int], tile: int, overlap: int) -> Grid:
        """Return the tiles of an image.

        Args:
            size: height and width of the image in pixels.
            tile: side of a tile in pixels.
            overlap: least number of pixels that adjacent tiles share, less than `tile`.
        """
        return cls(Axis.of(size[0], tile, overlap), Axis.of(size[1], tile, overlap))

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.rows.total, self.columns.total

    @property
    def whole(self) -> Rectangle:
        """The pixels of the image."""
        return Rectangle(0, 0, *self.size)

    @property
    def tile_size(self) -> tuple[int, int]:
        """Height and width of the tiles."""
        return self.rows.length, self.columns.length

    def tile(self, number: int) -> Rectangle:
        """Return the pixels of a tile."""
        row, column = divmod(number, len(self.columns.starts))
        top, left = self.rows.starts[row], self.columns.starts[column]
        return Rectangle(top, left, top + self.rows.length, left + self.columns.length)

    def cell(self, number: int) -> Rectangle:
        """Return the pixels that a tile decides: those nearer to its center than to that of any other tile."""
        row, column = divmod(number, len(self.columns.starts))
        top, bottom = self.rows.cuts[row : row + 2]
        left, right = self.columns.cuts[column : column + 2]
        return Rectangle(top, left, bottom, right)

    def weights(self, number: int) -> Floats:
        """Return the blending weights of a tile's pixels, in 0..1."""
        row, column = divmod(number, len(self.columns.starts))
        return np.outer(self.rows.window(row), self.columns.window(column))

    def weights_in(self, area: Rectangle, number: int) -> Floats:
        """Return the blending weights of some pixels of a tile."""
        return self.weights(number)[area.within(self.tile(number))]

    def covering(self, area: Rectangle) -> Iterator[tuple[int, Rectangle]]:
        """Yield the tiles that share pixels with an area, as number and shared pixels."""
        for row in self.rows.touching(area.top, area.bottom):
            for column in self.columns.touching(area.left, area.right):
                number = row * len(self.columns.starts) + column
                shared = self.tile(number).intersection(area)
                assert shared is not None, "both sides touch"
                yield number, shared
