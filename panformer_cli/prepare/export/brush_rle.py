"""Label Studio's run lengths of brush labels.

The format is that of the package `rle-pack` of https://github.com/thi-ng/umbrella, applied to an RGBA image: a header
with the number of values (32 bits), the bits of a value less 1 (5 bits) and the four possible bits of a length less 1
(4 x 4 bits), then for each run a set bit, the index of the length's bits (2 bits), the length less 1, and the value.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from panformer_cli.prepare.annotation_tools.shapes import Mask

_VALUE_BITS = 8
_LENGTH_BITS = np.array([3, 4, 8, 16])
_CHANNELS = 4
_INSIDE = 255
"""The value of all four channels inside of the mask; outside, it is 0."""


def encode(mask: Mask) -> list[int]:
    """Return the `rle` of a mask, (H, W) bool, as bytes 0..255."""
    flat = mask.ravel()
    starts = np.flatnonzero(np.append(True, flat[1:] != flat[:-1]))
    lengths = _CHANNELS * np.diff(starts, append=flat.size)
    pieces = -(-lengths // 2**16)  # longer runs are divided
    values = np.repeat(np.where(flat[starts], _INSIDE, 0), pieces)
    ends = np.cumsum(pieces) - 1
    lengths_of_pieces = np.full(len(values), 2**16)
    lengths_of_pieces[ends] = lengths - (pieces - 1) * 2**16
    choice = np.searchsorted(2**_LENGTH_BITS, lengths_of_pieces)
    bits = _LENGTH_BITS[choice]
    runs = (((4 + choice) << bits | (lengths_of_pieces - 1)) << _VALUE_BITS) | values
    header = [_CHANNELS * flat.size, _VALUE_BITS - 1, *(_LENGTH_BITS - 1)]
    numbers = np.concatenate([header, runs])
    return _packed(numbers, np.concatenate([[32, 5, 4, 4, 4, 4], 3 + bits + _VALUE_BITS]))


def _packed(numbers: npt.NDArray[np.int64], widths: npt.NDArray[np.int64]) -> list[int]:
    """Return numbers of different widths in bits, highest bit first, as bytes."""
    ends = np.cumsum(widths)
    shifts = np.repeat(ends, widths) - 1 - np.arange(ends[-1])
    packed: list[int] = np.packbits((np.repeat(numbers, widths) >> shifts & 1).astype(np.uint8)).tolist()
    return packed
