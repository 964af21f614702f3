"""The layers of an image in the viewer: the segment of every pixel as text, and what the page shows of each segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_png import id_runs
from panformer_cli.data.structures import IdMap, PanopticMap, Segment
from panformer_cli.visualization.drawing import segment_colors

LARGEST_SIDE = 1600
"""Maximum length of the longer side of an image in the viewer, pixels; larger images are scaled down."""

_DIGITS = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", np.uint8)
"""The characters of an encoded map, for 0..63; `maps.js` has the same."""

_BITS = 5
"""Bits of a number in one character; the sixth bit says that more follow."""


@dataclass(frozen=True)
class ShownMap:
    """The ground truth or the prediction of an image.

    Attributes:
        title: Name of the map on the page.
        panoptic: The map. Its ids may include some that no segment has.
        categories: The category table.
        rows: What the page shows of every segment, at least what `segment_rows` returns.
    """

    title: str
    panoptic: PanopticMap
    categories: CategoryTable
    rows: Sequence[dict[str, Any]]

    @classmethod
    def of(cls, title: str, panoptic: PanopticMap, categories: CategoryTable) -> ShownMap:
        """Return a map whose segments are described by `segment_rows`."""
        return cls(title, panoptic, categories, segment_rows(panoptic.segments, categories))

    def to_json(self, size: tuple[int, int]) -> dict[str, Any]:
        """Return the map at (height, width) `size` and its segments, for `viewer.js`."""
        return {
            "title": self.title,
            "map": encoded_map(self.panoptic.ids, self.panoptic.segments, size),
            "segments": list(self.rows),
        }


def segment_rows(segments: Sequence[Segment], categories: CategoryTable) -> list[dict[str, Any]]:
    """Return id, category name, whether it is a thing, color (RGB), area and score of every segment.

    A crowd has the state `crowd`. The score is left out if there is none or it is not finite.
    """
    colors = segment_colors(segments, categories)[1:].tolist()
    rows = []
    for segment, color in zip(segments, colors, strict=True):
        category = categories.by_id(segment.category_id)
        row = {"id": segment.id, "name": category.name, "thing": category.is_thing, "color": color}
        row |= {"area": segment.area} | ({"state": "crowd"} if segment.is_crowd else {})
        if segment.score is not None and isfinite(segment.score):
            row["score"] = round(segment.score, 4)
        rows.append(row)
    return rows


def shown_size(size: tuple[int, int], largest: int = LARGEST_SIDE) -> tuple[int, int]:
    """Return height and width of an image, scaled down if a side exceeds `largest`."""
    shrink = min(1.0, largest / max(size))
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))


def shrunk_ids(ids: IdMap, size: tuple[int, int]) -> IdMap:
    """Return the ids at the pixel centers of a map of (height, width) `size`."""
    if ids.shape == size:
        return ids
    rows, columns = ((np.arange(new) * full + full // 2) // new for full, new in zip(ids.shape, size, strict=True))
    return ids[np.ix_(rows, columns)]


def encoded_map(ids: IdMap, segments: Sequence[Segment], size: tuple[int, int]) -> str:
    """Return the map at (height, width) `size` as text: index and length of every run of pixels, in reading order.

    Index 0 is void and every id that no segment has; index i is `segments[i - 1]`. A number is written in characters
    of 5 bits, the lowest first.

    >>> encoded_map(np.zeros((4, 10), np.int32), [], (4, 10))  # 0, then 40 = 8 + 32 * 1
    'AoB'
    """
    indices = {segment.id: index for index, segment in enumerate(segments, start=1)}
    values, lengths = id_runs(shrunk_ids(ids, size))
    numbers = np.empty((len(values), 2), np.int64)
    numbers[:, 0] = [indices.get(value, 0) for value in values.tolist()]
    numbers[:, 1] = lengths
    return _text(numbers.reshape(-1))


def _text(numbers: npt.NDArray[np.int64]) -> str:
    """Return numbers of 0 or more as text."""
    most = max(1, -(-int(numbers.max(initial=0)).bit_length() // _BITS))
    rest = numbers[:, None] >> (_BITS * np.arange(most + 1))
    follows = rest[:, 1:] > 0
    digits = (rest[:, :-1] & (2**_BITS - 1)) | (follows.astype(np.int64) << _BITS)
    is_written = np.concatenate([np.ones((len(numbers), 1), np.bool_), follows[:, :-1]], axis=1)
    return str(_DIGITS[digits[is_written]].tobytes(), "ascii")
