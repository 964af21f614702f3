"""Run-length encoding of all the segments of a panoptic map in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from panformer_cli.data.structures import IdMap

_Positions = npt.NDArray[np.intp]


def encode_segments(ids: IdMap) -> dict[int, dict[str, Any]]:
    """COCO's compressed RLE of each id in the map, void (0) left out.

    ids: (H, W) int32.
    Returns `{id: {"size": [H, W], "counts": text}}`, as `pycocotools.mask.encode` encodes `ids == id`.

    >>> encode_segments(np.array([[0, 7], [7, 7]], dtype=np.int32))
    {7: {'size': [2, 2], 'counts': '13'}}
    """
    height, width = ids.shape
    columns = ids.ravel(order="F")  # COCO counts down the columns
    starts = np.concatenate(([0], np.flatnonzero(columns[1:] != columns[:-1]) + 1))
    ends = np.append(starts[1:], columns.size)
    order = np.argsort(columns[starts], kind="stable")  # runs of one id together, from left to right
    found, firsts = np.unique(columns[starts][order], return_index=True)
    encoded = {}
    for segment_id, runs in zip(found.tolist(), np.split(order, firsts[1:]), strict=True):
        if segment_id != 0:
            counts = _counts(starts[runs], ends[runs], columns.size)
            encoded[segment_id] = _compress(counts, height, width)
    return encoded


def _counts(starts: _Positions, ends: _Positions, size: int) -> list[int]:
    """Lengths of the runs, outside and inside by turns and the first one outside."""
    borders = np.stack([starts, ends], axis=1).ravel()
    lengths = np.diff(borders, prepend=0, append=size)
    counts: list[int] = (lengths if lengths[-1] else lengths[:-1]).tolist()
    return counts


def _compress(counts: list[int], height: int, width: int) -> dict[str, Any]:
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}
