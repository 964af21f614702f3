"""Decode the text of COCO's compressed run lengths (`rleFrString` in pycocotools' maskApi.c).

Each count is written in digits of five bits, the lowest first, in characters from `0` on: a further bit says that
another digit follows. From the fourth on, each count is stored as the difference from the one two before.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_OFFSET, _DIGIT, _MORE, _SIGN = 48, 0x1F, 0x20, 0x10

_MAX_DIGITS = 7
"""Maximum digits of a count: 34 bits and a sign, more than the pixels of any image."""


def decompress(text: bytes) -> npt.NDArray[np.int64] | None:
    """Return the run lengths, alternately outside and inside; None if the text is not an RLE.

    They are not checked: they may be negative, or not fill the image.

    >>> decompress(b"13").tolist()
    [1, 3]
    """
    characters = np.frombuffer(text, np.uint8).astype(np.int64) - _OFFSET
    if not characters.size or characters.min() < 0 or characters.max() >= 2 * _MORE or characters[-1] & _MORE:
        return None
    ends = np.flatnonzero(characters & _MORE == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MAX_DIGITS:
        return None
    shifts = 5 * (np.arange(characters.size) - np.repeat(starts, lengths))
    counts = np.add.reduceat((characters & _DIGIT) << shifts, starts)
    counts -= np.where(characters[ends] & _SIGN, 1 << 5 * lengths, 0)
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts
