"""A `segmentation` of a COCO detection JSON to a mask, through pycocotools: polygons and both kinds of RLE.

pycocotools trusts its input with memory; what comes out of a file is checked first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from panformer_cli.errors import DataError
from panformer_cli.prepare.overlap import Mask
from panformer_cli.wording import short

_OFFSET, _DIGIT, _MORE, _SIGN = 48, 0x1F, 0x20, 0x10
"""Compressed RLE: five bits a character from `0` on, the lowest first; a bit that more follow, and the sign."""
_MOST_CHARACTERS = 7
"""Of one count; so many hold 34 bits and a sign, more than any image has pixels."""


class CroppedMask(NamedTuple):
    """mask: (h, w) bool, the part of the image from `top` and `left` on that holds all of it."""

    mask: Mask
    top: int
    left: int


def mask_of_segmentation(segmentation: Any, size: tuple[int, int], where: str) -> CroppedMask:
    """The pixels of a segmentation, as pycocotools' `annToMask` has them, cut out.

    segmentation: a list of polygons `[x1, y1, x2, y2, ...]` in pixels, or `{"size": [H, W], "counts": ...}` with a list
        of run lengths or COCO's compressed text.
    size: height and width of the image.

    Raises:
        DataError: it is none of these or does not fit the size; `where` names file and annotation.
    """
    if isinstance(segmentation, list):
        encoded = coco_mask.merge(coco_mask.frPyObjects(_polygons(segmentation, size, where), *size))
    elif isinstance(segmentation, dict):
        encoded = coco_mask.frPyObjects({"size": list(size), "counts": _counts(segmentation, size, where)}, *size)
    else:
        raise DataError(f"{where}: the segmentation is {short(segmentation)}; expected a list of polygons, or an RLE")
    left, top, width, height = (int(number) for number in coco_mask.toBbox(encoded))
    mask = coco_mask.decode(encoded)[top : top + height, left : left + width]
    return CroppedMask(np.array(mask, np.bool_, order="C"), top, left)


def _polygons(polygons: list[Any], size: tuple[int, int], where: str) -> list[list[float]]:
    if not polygons:
        raise DataError(f"{where}: the segmentation is empty; expected at least one polygon")
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise DataError(
                f"{where}: a polygon is {short(polygon)}; expected x1, y1, x2, y2, x3, y3 ... of 3 or more points"
            )
        # Slips over the edge are usual; what lies an image away is of another image or unit.
        far = [n for n in polygon if type(n) not in (int, float) or not -max(size) <= n <= 2 * max(size)]
        if far:
            raise DataError(
                f"{where}: a polygon holds {short(far[0])}; expected pixels of the image of {size[1]}x{size[0]}"
            )
    return polygons


def _counts(rle: dict[str, Any], size: tuple[int, int], where: str) -> list[int]:
    """Lengths of the runs, outside and inside by turns, whose sum is the number of pixels."""
    if rle.get("size") != list(size):
        raise DataError(
            f"{where}: the RLE has the size {short(rle.get('size'))}; expected {list(size)}, height and width"
            " of the image"
        )
    counts = rle.get("counts")
    if isinstance(counts, str):
        counts = decompress(counts)
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise DataError(f"{where}: the counts of the RLE are {short(rle.get('counts'))}; expected run lengths")
    if sum(counts) != size[0] * size[1]:
        raise DataError(
            f"{where}: the counts of the RLE add up to {sum(counts)}; expected {size[0] * size[1]}, the pixels of "
            f"{size[1]}x{size[0]}"
        )
    return counts


def decompress(text: str) -> list[int] | None:
    """Run lengths of COCO's compressed RLE; None where the text is not of this form.

    From the third on, each is stored as the difference to the last but one.

    >>> decompress("13")
    [1, 3]
    """
    try:
        characters = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - _OFFSET
    except UnicodeError:
        return None
    if not characters.size or characters.min() < 0 or characters.max() >= 2 * _MORE or characters[-1] & _MORE:
        return None
    ends = np.flatnonzero(characters & _MORE == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MOST_CHARACTERS:
        return None
    shifts = 5 * (np.arange(characters.size) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((characters & _DIGIT) << shifts, starts)
    numbers -= np.where(characters[ends] & _SIGN, 1 << 5 * lengths, 0)
    counts: list[int] = _summed(numbers).tolist()
    return counts


def _summed(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Counts out of differences: those of even places and those of odd places, but for the first, add up."""
    counts = numbers.copy()
    counts[1::2] = np.cumsum(numbers[1::2])
    counts[2::2] = np.cumsum(numbers[2::2])
    return counts
