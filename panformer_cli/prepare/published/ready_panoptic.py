"""Panoptic PNGs that a data set brings along, taken over with void and stuff as COCO has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.json_stream import read_members
from panformer_cli.data.coco.panoptic_png import read_panoptic_png, segment_ids
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.errors import DataError
from panformer_cli.wording import listing

VOID = -1
"""The category id, in `SegmentTable`, of a segment that becomes void."""

SegmentTable = npt.NDArray[np.int32]
"""(segments, 3): id, category id of the result, 1 for a crowd. Small, since it travels to another process."""


def read_categories(annotation: Path) -> Any:
    """What a panoptic JSON has as `categories`, unchecked; None where it has none. The rest is passed over.

    Raises:
        DataError: as `json_stream.read_members`.
    """
    for key, value in read_members(annotation):
        if key == "categories":
            return list(value) if isinstance(value, Iterator) else value
    return None


def segment_table(segments: Iterable[Segment], category_of: Callable[[Segment], int]) -> SegmentTable:
    """The segments of an image; `category_of` gives the category id of the result, or `VOID`."""
    rows = [(segment.id, category_of(segment), segment.is_crowd) for segment in segments]
    return np.array(rows, np.int32).reshape(-1, 3)


def read_ready_panoptic(png: Path, annotation: Path, table: SegmentTable, categories: CategoryTable) -> PanopticMap:
    """Read a panoptic PNG with the segments that the JSON `annotation` gives its image.

    Segments keep their ids. Those of category `VOID` become void; several of one stuff class become one, with the id
    that the JSON lists first, as COCO has one for each; stuff is never a crowd. Areas and boxes are measured.

    Raises:
        DataError: the PNG is missing or damaged, or does not hold just the ids of the table.
    """
    ids = read_panoptic_png(png)
    _check_ids(png, annotation, segment_ids(ids), set(table[:, 0].tolist()))
    category_of_id: dict[int, int] = {}
    crowd_ids: set[int] = set()
    first_of_stuff: dict[int, int] = {}
    for number, category_id, is_crowd in table.tolist():
        kept = number
        if category_id == VOID:
            kept = 0
        elif not categories.by_id(category_id).is_thing:
            kept = first_of_stuff.setdefault(category_id, number)
        elif is_crowd:
            crowd_ids.add(number)
        if kept != number:
            ids[ids == number] = kept
        category_of_id[kept] = category_id
    return PanopticMap(ids, segments_of(ids, category_of_id, crowd_ids))


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
