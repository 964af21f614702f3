"""Reverses the filters of PNG directly into segment ids; compiled by numba on the first call.

Each row of a PNG is stored as differences from one of five predictions (PNG specification, section 9). Three of them
depend on the pixel to the left, so array operations cannot reverse them. A third of the rows of COCO's panoptic PNGs
use these.

A pixel is one integer here, R + 256 G + 65536 B, and its three bytes are computed in parallel. Masks such as 0x7F7F7F
prevent carries from one byte to the next.
"""

# mypy: ignore-errors
# Functions compiled by numba have numba's types, not Python's.

from __future__ import annotations

import numpy as np

from panformer_cli.compiled import compiled


@compiled()
def added(one, other):
    """Return the sum of two pixels, each byte modulo 256."""
    return np.int32(((one & 0x7F7F7F) + (other & 0x7F7F7F)) ^ ((one ^ other) & 0x808080))


@compiled()
def halfway(left, above):
    """Return filter 3, Average: half the sum of each byte, rounded down."""
    return (left & above) + (((left ^ above) & 0xFEFEFE) >> 1)


@compiled()
def nearest(left, above, corner):
    """Return filter 4, Paeth, of one byte: the value nearest to left + above - corner; ties in this order."""
    to_left, to_above, to_corner = abs(above - corner), abs(left - corner), abs(left + above - 2 * corner)
    if to_left <= to_above and to_left <= to_corner:
        return left
    return above if to_above <= to_corner else corner


@compiled()
def nearest_bytes(left, above, corner):
    """Return filter 4 of a pixel if `above` and `corner` differ; if they are equal, it is `left`."""
    if left == corner:
        return above
    red = nearest(left & 255, above & 255, corner & 255)
    green = nearest(left >> 8 & 255, above >> 8 & 255, corner >> 8 & 255)
    return red | green << 8 | nearest(left >> 16, above >> 16, corner >> 16) << 16


@compiled()
def widen(line, row):
    """Convert pixels of three bytes to integers, four pixels (three 32-bit words, little-endian) at a time.

    Args:
        line: (3 W,) uint8.
        row: (W,) int32, filled.
    """
    fours, whole = len(row) // 4, np.uint32(0xFFFFFF)
    packed, pixels = line[: 12 * fours].view(np.uint32), row.view(np.uint32)
    for four in range(fours):
        first, second, third = packed[3 * four], packed[3 * four + 1], packed[3 * four + 2]
        pixels[4 * four] = first & whole
        pixels[4 * four + 1] = (first >> np.uint32(24) | second << np.uint32(8)) & whole
        pixels[4 * four + 2] = (second >> np.uint32(16) | third << np.uint32(16)) & whole
        pixels[4 * four + 3] = third >> np.uint32(8)
    for x in range(4 * fours, len(row)):
        row[x] = np.int32(line[3 * x]) | np.int32(line[3 * x + 1]) << 8 | np.int32(line[3 * x + 2]) << 16


@compiled()
def unfilter(lines, ids, first):
    """Fill rows of `ids`, starting at row `first`. Return False if a row has an unknown filter.

    Args:
        lines: (n * (1 + 3 W),) uint8, complete rows: number of the filter, then the filtered bytes.
        ids: (H, W) int32; the rows before `first` are already filled.
        first: the first row to fill.
    """
    width = ids.shape[1]
    above = ids[first - 1] if first else np.zeros(width, np.int32)
    for number in range(len(lines) // (1 + 3 * width)):
        start = number * (1 + 3 * width)
        kind, line, row = lines[start], lines[start + 1 : start + 1 + 3 * width], ids[first + number]
        widen(line, row)
        left = corner = np.int32(0)
        # Most bytes of a segment map are 0: a predictable branch costs less than an addition.
        if kind == 1:
            for x in range(width):
                if row[x]:
                    left = added(row[x], left)
                row[x] = left
        elif kind == 2:
            for x in range(width):
                row[x] = added(row[x], above[x])
        elif kind == 3:
            for x in range(width):
                row[x] = left = added(row[x], halfway(left, above[x]))
        elif kind == 4:
            for x in range(width):
                if above[x] != corner:
                    left, corner = nearest_bytes(left, above[x], corner), above[x]
                if row[x]:
                    left = added(row[x], left)
                row[x] = left
        elif kind != 0:
            return False
        above = row
    return True
