"""A validated panoptic annotation in flat arrays: a million segments without a million objects."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.disk_list import LazySequence
from panformer_cli.data.structures import Segment

SegmentRows = npt.NDArray[np.void]
"""(N,) with the fields of `SEGMENT_ROW`, each in that dtype or a smaller one."""
SEGMENT_ROW = np.dtype(
    [("id", "<i4"), ("label", "<i4"), ("area", "<i8"), ("bbox", "<f8", (4,)), ("is_crowd", "?"), ("score", "<f8")]
)
"""One row per segment. Area -1, bbox NaN and score NaN mean that the JSON has no value."""

_FIELDS = ("id", "label", "area", "bbox", "is_crowd", "score")
_SMALLER = {"i": ("<i1", "<i2", "<i4"), "f": ("<f2", "<f4"), "b": ()}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An annotated image, as listed in the JSON.

    Attributes:
        id: dataset id of the image.
        file_name: of the image, relative to the image folder; empty if unknown, since predictions may not list it.
        png_name: of its panoptic PNG, relative to the PNG folder.
        height: in pixels; None if the JSON has none.
        width: in pixels; None if the JSON has none.
    """

    id: int | str
    file_name: str
    png_name: str
    height: int | None = None
    width: int | None = None


class JsonRows(LazySequence[T]):
    """A sequence stored as text, one JSON list per item, that creates objects on access.

    Args:
        kind: called with the values of a list to create an object.
        text: the concatenated lists, as ASCII bytes.
        starts: list i is text[starts[i]:starts[i + 1]].
    """

    def __init__(self, kind: Callable[..., T], text: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64]) -> None:
        self.kind, self.text, self.starts = kind, text, starts

    @classmethod
    def of(cls, kind: Callable[..., T], rows: Iterable[Sequence[Any]]) -> JsonRows[T]:
        """Return a sequence of the given lists."""
        text, starts = bytearray(), array("q", [0])
        for row in rows:
            text += json.dumps(row).encode()
            starts.append(len(text))
        return cls(kind, np.frombuffer(bytes(text), np.uint8), np.array(starts, np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def lists(self) -> list[list[Any]]:
        """Return the values of all items; ten times as fast as creating the objects."""
        text = self.text.tobytes()
        rows = (text[start:end] for start, end in pairwise(self.starts.tolist()))
        content: list[list[Any]] = json.loads(b"[" + b",".join(rows) + b"]")
        return content

    def _item(self, position: int) -> T:
        return self.kind(*json.loads(self.text[self.starts[position] : self.starts[position + 1]].tobytes()))


@dataclass(frozen=True)
class PanopticAnnotation:
    """A validated panoptic JSON. COCO's takes 21 bytes per segment and about 80 per image.

    Attributes:
        path: the JSON.
        categories: its category table.
        images: the annotated images, in the order of the JSON.
        rows: the segments; those of image i are rows[starts[i]:starts[i + 1]].
        starts: (images + 1,), see `rows`.
        unannotated: file names of the images that the JSON lists but does not annotate.
        ids_by_name: id in `categories` of each category id in the JSON, by name, if they differ; None if ids are equal.
    """

    path: Path
    categories: CategoryTable
    images: JsonRows[ImageInfo]
    rows: SegmentRows
    starts: npt.NDArray[np.int64]
    unannotated: JsonRows[str]
    ids_by_name: Mapping[int, int] | None = None

    def segments(self, index: int) -> tuple[Segment, ...]:
        """Return the segments of an image; area is -1 and bbox NaN if the JSON has none."""
        rows = self.rows[self.starts[index] : self.starts[index + 1]].tolist()
        return tuple(
            Segment(number, self.categories.by_label(label).id, area, tuple(bbox.tolist()), is_crowd, _or_none(score))
            for number, label, area, bbox, is_crowd, score in rows
        )


def narrowed(rows: SegmentRows) -> SegmentRows:
    """Return `rows` with each field in the smallest dtype that represents its values exactly."""
    return rows.astype(row_type({name: _smallest(rows[name]) for name in _FIELDS}))


def joined_type(blocks: Iterable[SegmentRows], labels: npt.NDArray[np.int64]) -> np.dtype[np.void]:
    """Return the dtype of concatenated blocks: each field in its widest dtype, `label` as narrow as `labels` allow."""
    types = {"label": _smallest(labels.astype(SEGMENT_ROW["label"]))}
    for block in blocks:
        for name in _FIELDS:
            if name != "label":
                types[name] = max(block.dtype[name].base, np.dtype(types.get(name, "i1")), key=_itemsize).str
    return row_type(types)


def _itemsize(kind: np.dtype[Any]) -> int:
    return kind.itemsize


def row_type(types: dict[str, str]) -> np.dtype[np.void]:
    """Return `SEGMENT_ROW` with other dtypes, given by field name."""
    return np.dtype([(name, types[name], SEGMENT_ROW[name].shape) for name in _FIELDS])


def _smallest(values: npt.NDArray[Any]) -> str:
    for smaller in _SMALLER[values.dtype.kind]:
        with np.errstate(over="ignore"):
            if np.array_equal(values, values.astype(smaller), equal_nan=True):
                return smaller
    return values.dtype.str


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else number
