"""Read a data set's own panoptic PNGs, with void and stuff as in COCO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.json_stream import read_panoptic_members
from panformer_cli.data.coco.panoptic_png import read_panoptic_png, segment_ids
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import Segment
from panformer_cli.errors import DataError
from panformer_cli.prepare.source import LabeledMap
from panformer_cli.wording import listing

VOID = -1
"""The category id, in `SegmentTable`, of a segment that becomes void."""

SegmentTable = npt.NDArray[np.int64]
"""(segments, 4): id, output category id, 1 for a crowd, category id in the JSON. Compact, because it is sent to another
process."""


def read_categories(annotation: Path) -> Any:
    """Return the unchecked `categories` of a panoptic JSON, or None if there are none, without reading the rest.

    Raises:
        DataError: As in `json_stream.read_panoptic_members`.
    """
    for key, value in read_panoptic_members(annotation):
        if key == "categories":
            return list(value) if isinstance(value, Iterator) else value
    return None


def segment_table(segments: Iterable[Segment], category_of: Callable[[Segment], int]) -> SegmentTable:
    """Return the table of an image's segments; `category_of` returns the output category id or `VOID`."""
    rows = [(segment.id, category_of(segment), segment.is_crowd, segment.category_id) for segment in segments]
    return np.array(rows, np.int64).reshape(-1, 4)


def read_ready_panoptic(png: Path, annotation: Path, table: SegmentTable, categories: CategoryTable) -> LabeledMap:
    """Read a panoptic PNG with the segments that the JSON `annotation` lists for its image.

    Segments keep their ids, but those of category `VOID` become void, and several of one stuff class become one, with
    the first id in the JSON. Stuff is never a crowd. Areas and boxes are measured on the pixels.

    Raises:
        DataError: The PNG is missing or corrupt, or its ids differ from those of the table.
    """
    ids = read_panoptic_png(png)
    _check_ids(png, annotation, segment_ids(ids), set(table[:, 0].tolist()))
    category_of_id: dict[int, int] = {}
    crowd_ids: set[int] = set()
    first_of_stuff: dict[int, int] = {}
    void_values = Counter[str]()
    for number, category_id, is_crowd, listed_id in table.tolist():
        kept = number
        if category_id == VOID:
            kept = 0
            void_values[str(listed_id)] += int((ids == number).sum())
        elif not categories.by_id(category_id).is_thing:
            kept = first_of_stuff.setdefault(category_id, number)
        elif is_crowd:
            crowd_ids.add(number)
        if kept != number:
            ids[ids == number] = kept
        category_of_id[kept] = category_id
    return LabeledMap(ids, segments_of(ids, category_of_id, crowd_ids), void_values)


def _check_ids(png: Path, annotation: Path, drawn: set[int], listed: set[int]) -> None:
    only = [
        f"{listing(sorted(ids))} only in {where}"
        for ids, where in ((drawn - listed, "the PNG"), (listed - drawn, "its segments_info"))
        if ids
    ]
    if only:
        raise DataError(
            f"{png} and {annotation} disagree: segment ids {' and '.join(only)}; expected the same ids in both; "
            "restore the two files from one release"
        )
