"""Run-length encoding of all the segments of a panoptic map in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import IdMap

IntArray = npt.NDArray[np.int64]


def encode_segments(ids: IdMap) -> dict[int, dict[str, Any]]:
    """COCO's compressed RLE of each id in the map, void (0) left out.

    ids: (H, W) int32.
    Returns `{id: {"size": [H, W], "counts": text}}`, as `pycocotools.mask.encode` encodes `ids == id`.

    A map is some thousand runs of equal ids; all that follows works on these, of all segments together.

    >>> encode_segments(np.array([[0, 7], [7, 7]], dtype=np.int32))
    {7: {'size': [2, 2], 'counts': '13'}}
    """
    height, width = ids.shape
    columns = np.asarray(cv2.transpose(ids)).reshape(-1)  # COCO counts down the columns
    starts = np.concatenate(([0], np.flatnonzero(columns[1:] != columns[:-1]) + 1))
    ends = np.append(starts[1:], columns.size)
    values = columns[starts]
    order = np.argsort(values, kind="stable")  # runs of one id together, from left to right
    sorted_values = values[order]
    firsts = np.concatenate(([0], np.flatnonzero(sorted_values[1:] != sorted_values[:-1]) + 1))
    texts = _compress(*_counts(starts[order], ends[order], firsts, columns.size))
    size = [height, width]
    return {
        number: {"size": size, "counts": text}
        for number, text in zip(sorted_values[firsts].tolist(), texts, strict=True)
        if number
    }


def _counts(starts: IntArray, ends: IntArray, firsts: IntArray, pixels: int) -> tuple[IntArray, IntArray]:
    """Lengths of the runs of each segment, outside and inside by turns and the first one outside.

    starts, ends: of the runs of all segments, those of segment k from firsts[k] on.
    Returns the lengths of all segments, and where those of each begin.
    """
    # A segment of r runs has 2 r borders, and the last pixel as one more.
    begins = 2 * firsts + np.arange(len(firsts))
    borders = np.empty(2 * len(starts) + len(firsts), np.int64)
    inner = np.ones(len(borders), np.bool_)
    inner[np.append(begins[1:], len(borders)) - 1] = False
    borders[inner] = np.stack([starts, ends], axis=1).ravel()
    borders[~inner] = pixels
    lengths = np.diff(borders, prepend=0)
    lengths[begins] = borders[begins]
    # A segment that reaches to the last pixel has nothing outside after it.
    kept = inner | (lengths != 0)
    return lengths[kept], (np.cumsum(kept) - kept)[begins]


def _compress(lengths: IntArray, begins: IntArray) -> list[str]:
    """The lengths of each segment as COCO's text: five bits a character, from 48 on, and 32 where more follow.

    From the fourth on, it is the difference from the length before the last that is written (maskApi.c in COCO's API).
    """
    numbers = lengths.copy()
    numbers[2:] -= lengths[:-2]
    for place in (begins, begins + 1, begins + 2):  # of a segment with fewer it is one of the next, whose turn comes
        inside = place[place < len(lengths)]
        numbers[inside] = lengths[inside]
    size = numbers ^ (numbers >> 63)  # as large as a number of the other sign that takes as many bits
    characters = np.ones(len(numbers), np.int64)
    for bits in range(4, int(size.max()).bit_length(), 5):
        characters += size >= 1 << bits
    ends = np.cumsum(characters)
    text = np.empty(int(ends[-1]), np.uint8)
    places, left, following = ends - characters, numbers, characters
    while len(places):
        text[places] = (left & 31 | (following > 1) << 5) + 48
        more = np.flatnonzero(following > 1)
        places, left, following = places[more] + 1, left[more] >> 5, following[more] - 1
    cuts = (ends - characters)[begins].tolist() + [len(text)]
    whole = text.tobytes().decode("ascii")
    return [whole[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]
