"""The loops of run-length encoding over the pixels and the runs of a panoptic map, compiled by numba."""

# mypy: ignore-errors
# What numba compiles looks like Python, but its types are numba's.

from __future__ import annotations

import numpy as np

from panformer_cli.compiled import compiled

LONGEST = 7
"""Characters of a length, five bits each, with a sign: of an image of up to 2^31 pixels."""


@compiled()
def column_runs(ids):
    """Starts and values of the runs of equal ids down the columns, one column after the other.

    ids: (H, W) int32. Returns two arrays of equal length; a start is x * H + y.
    """
    height, width = ids.shape
    in_column = np.zeros(width + 1, np.int64)  # later: where those of a column begin
    found = np.empty(max(height * width, 1), np.int32)  # x of every change, row by row
    ends = np.zeros(height, np.int64)
    number = 0
    for y in range(height):
        # The pixel above the top of a column is the last of the column before.
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
        for place in range(first, ends[y]):
            x = found[place]
            starts[in_column[x]] = x * height + y
            values[in_column[x]] = ids[y, x]
            in_column[x] += 1
        first = ends[y]
    return starts, values


@compiled()
def write_number(text, end, number):
    """Five bits a character, from 48 on, and 32 where more follow (maskApi.c in COCO's API). Returns the new end."""
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
    """The lengths of the runs of each segment as COCO's text, outside and inside by turns and the first one outside.

    starts, values: as `column_runs` gives them. order: numbers of the runs, those of one value together.
    Returns the values of the segments, where the characters of each end, and the characters of all. From the fourth
    length on, it is the difference from the length before the last that is written.
    """
    text = np.empty(LONGEST * 3 * len(starts), np.uint8)
    numbers, ends = np.empty(len(starts), np.int32), np.empty(len(starts), np.int64)
    segments = end = 0
    for place in range(len(order)):
        run = order[place]
        start = starts[run]
        stop = starts[run + 1] if run + 1 < len(starts) else pixels
        if place == 0 or values[run] != values[order[place - 1]]:
            lengths, outside, inside, position = 0, 0, 0, 0
        base = outside if lengths > 2 else 0
        outside = start - position
        end = write_number(text, end, outside - base)
        base = inside if lengths > 1 else 0
        inside = stop - start
        end = write_number(text, end, inside - base)
        lengths += 2
        position = stop
        if place + 1 == len(order) or values[order[place + 1]] != values[run]:
            if position < pixels:
                base = outside if lengths > 2 else 0
                end = write_number(text, end, pixels - position - base)
            numbers[segments], ends[segments] = values[run], end
            segments += 1
    return numbers[:segments], ends[:segments], text[:end]
