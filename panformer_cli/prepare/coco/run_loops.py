"""Run-length encoding loops, compiled by numba."""

# mypy: ignore-errors
# Compiled by numba, whose types mypy does not know.

from __future__ import annotations

import numpy as np

from panformer_cli.compiled import compiled

LONGEST = 7
"""Maximum number of characters per run length (five bits each, plus sign) in an image of up to 2^31 pixels."""


@compiled()
def column_runs(ids):
    """Return the starts (x * H + y) and values of the column-major runs of equal ids, (H, W) int32."""
    height, width = ids.shape
    in_column = np.zeros(width + 1, np.int64)  # number of runs per column; later, the column's first index
    found = np.empty(max(height * width, 1), np.int32)  # x of each change, row by row
    ends = np.zeros(height, np.int64)
    number = 0
    for y in range(height):
        # The pixel before the top of a column is the last one of the previous column.
        for x in range(width):
            if ids[y, x] != (ids[y - 1, x] if y else ids[height - 1, x - 1]) or x == y == 0:
                found[number] = x
                number += 1
                in_column[x + 1] += 1
        ends[y] = number
    for x in range(width):
        in_column[x + 1] += in_column[x]
    starts = np.empty(number, np.int64)
    values = np.empty(number, np.int32)
    first = 0
    for y in range(height):
        for index in range(first, ends[y]):
            x = found[index]
            starts[in_column[x]] = x * height + y
            values[in_column[x]] = ids[y, x]
            in_column[x] += 1
        first = ends[y]
    return starts, values


@compiled()
def write_number(text, end, number):
    """Append a number to `text` and return the new end.

    Each character has five bits, bit 32 if more follow, and an offset of 48 (maskApi.c in COCO's API).
    """
    more = True
    while more:
        bits = number & 31
        number >>= 5
        more = number != (-1 if bits & 16 else 0)
        text[end] = 48 + (bits | 32 if more else bits)
        end += 1
    return end


@compiled()
def write_segments(starts, values, order, pixels):
    """Encode the run lengths of each segment as COCO's text: alternately outside and inside, starting outside.

    From the fourth on, each length is written as the difference from the length two before.

    Args:
        starts: As returned by `column_runs`.
        values: As returned by `column_runs`.
        order: Indices of the runs, grouped by value.
        pixels: Number of pixels in the map.

    Returns:
        The values of the segments, the end of each one's characters, and the characters of all.
    """
    text = np.empty(LONGEST * 3 * len(starts), np.uint8)
    numbers, ends = np.empty(len(starts), np.int32), np.empty(len(starts), np.int64)
    segments = end = 0
    for index in range(len(order)):
        run = order[index]
        start = starts[run]
        stop = starts[run + 1] if run + 1 < len(starts) else pixels
        if index == 0 or values[run] != values[order[index - 1]]:
            lengths, outside, inside, position = 0, 0, 0, 0
        base = outside if lengths > 2 else 0
        outside = start - position
        end = write_number(text, end, outside - base)
        base = inside if lengths > 1 else 0
        inside = stop - start
        end = write_number(text, end, inside - base)
        lengths += 2
        position = stop
        if index + 1 == len(order) or values[order[index + 1]] != values[run]:
            if position < pixels:
                base = outside if lengths > 2 else 0
                end = write_number(text, end, pixels - position - base)
            numbers[segments], ends[segments] = values[run], end
            segments += 1
    return numbers[:segments], ends[:segments], text[:end]
