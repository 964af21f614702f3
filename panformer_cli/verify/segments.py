"""Check an image's `segments_info` against the pixels of its PNG."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from panformer_cli.data.coco.json_values import is_count, is_score
from panformer_cli.data.coco.panoptic_png import MAX_ID
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import IdMap, Segment
from panformer_cli.verify.findings import Change, Finding, Problem, twice
from panformer_cli.verify.outline import ImageId
from panformer_cli.wording import listing, short

TINY_PIXELS = 10
"""Segments with fewer pixels are reported: most are annotation errors."""


class SegmentChecks:
    """Checks the segments of one image."""

    def __init__(self, image_id: ImageId, index: int, where: str, is_thing: Mapping[int, bool | None] | None) -> None:
        """Prepare to check an image.

        Args:
            image_id: Id of the image.
            index: Index of the image's row in `annotations`.
            where: Start of all sentences about the image.
            is_thing: See `Outline.is_thing`.
        """
        self._image_id = image_id
        self._index = index
        self._where = where
        self._is_thing = is_thing
        self._findings: list[Finding] = []

    def run(self, rows: list[Any], ids: IdMap | None, is_sized: bool) -> list[Finding]:
        """Return the problems of the rows of `segments_info`.

        Args:
            rows: The image's `segments_info`.
            ids: The map in the PNG; None if it cannot be read.
            is_sized: Whether the PNG has the size of its image; otherwise areas and boxes are not comparable.
        """
        usable = {position: row for position, row in enumerate(rows) if self._check_row(row)}
        repeated = twice(row["id"] for row in usable.values())
        for segment_id in repeated:
            sentence = f"{self._where} has two segments with the id {segment_id}; expected unique ids"
            self._add(Problem.SEGMENT_TWICE, sentence)
        if self._is_thing is not None:
            self._check_categories(list(usable.values()), self._is_thing)
        if ids is not None:
            drawn = {segment.id: segment for segment in segments_of(ids, defaultdict(int))}
            # A row without a usable id may belong to any id in the PNG.
            if len(usable) == len(rows):
                self._check_ids(usable, drawn, is_sized)
            for position, row in usable.items():
                if is_sized and row["id"] in drawn and row["id"] not in repeated:
                    self._check_geometry(position, row, drawn[row["id"]])
        return self._findings

    def _add(self, problem: Problem, sentence: str, *changes: Change) -> None:
        self._findings.append(Finding(problem, sentence, changes))

    def _check_row(self, row: Any) -> bool:
        """Report problems of a row and return whether its id can be compared."""
        has_id = isinstance(row, dict) and is_count(row.get("id"), 1) and row["id"] <= MAX_ID
        if not has_id:
            expected = f"an object with an id from 1 to {MAX_ID}"
        elif row.get("iscrowd", 0) not in (0, 1):
            expected = "iscrowd 0 or 1"
        elif not is_score(row.get("score")):
            expected = "a score of 0 or more"
        else:
            return True
        self._add(Problem.SEGMENT_ROW, f"{self._where} has the segment {short(row)}; expected {expected}")
        return has_id

    def _check_categories(self, rows: list[dict[str, Any]], is_thing: Mapping[int, bool | None]) -> None:
        stuff: Counter[int] = Counter()
        for row in rows:
            where, category_id = f"{self._where}: segment {row['id']}", row.get("category_id")
            if not is_count(category_id, 0) or category_id not in is_thing:
                sentence = f"{where} has the category_id {short(category_id)}; expected an id in `categories`"
                self._add(Problem.CATEGORY_UNKNOWN, sentence)
            elif is_thing[category_id] is False:
                stuff[category_id] += 1
                if row.get("iscrowd", 0) == 1:
                    sentence = (
                        f"{where} is a crowd of category {category_id}, which is stuff; only things can be crowds"
                    )
                    self._add(Problem.STUFF_CROWD, sentence)
        for category_id, count in stuff.items():
            if count > 1:
                sentence = f"{self._where} has {count} segments of the stuff category {category_id}; expected one"
                self._add(Problem.STUFF_TWICE, sentence)

    def _check_ids(self, rows: Mapping[int, dict[str, Any]], drawn: Mapping[int, Segment], is_sized: bool) -> None:
        unlisted = set(drawn) - {row["id"] for row in rows.values()}
        if unlisted:
            ids = listing(sorted(unlisted))
            sentence = f"{self._where}: the PNG has the segment ids {ids}, which are not in segments_info"
            self._add(Problem.SEGMENT_UNLISTED, f"{sentence}; expected the same ids in both (0 in the PNG is void)")
        empty = {position: row for position, row in rows.items() if row["id"] not in drawn}
        if empty:
            ids = listing(sorted(row["id"] for row in empty.values()))
            sentence = f"{self._where}: segments_info lists the segment ids {ids}, which have no pixels in the PNG"
            # With unlisted ids in the PNG, these may be the same segments under other ids. With another size, it may
            # be the PNG of another image.
            is_sure = is_sized and not unlisted and bool(drawn)
            changes = [self._change(position, row) for position, row in empty.items()] if is_sure else []
            self._add(Problem.SEGMENT_NOT_DRAWN, f"{sentence}; expected the same ids in both", *changes)

    def _check_geometry(self, position: int, row: dict[str, Any], drawn: Segment) -> None:
        where, box = f"{self._where}: segment {drawn.id}", [int(side) for side in drawn.bbox]
        if drawn.area < TINY_PIXELS:
            self._add(Problem.TINY, f"{where} has only {drawn.area} pixels; check whether it is intended")
        if row.get("area") is not None and row["area"] != drawn.area:
            sentence = f"{where} has area {short(row['area'])}; expected {drawn.area}, measured on its pixels"
            self._add(Problem.AREA, sentence, self._change(position, row, "area", drawn.area))
        if row.get("bbox") is not None and row["bbox"] != box:
            sentence = f"{where} has bbox {short(row['bbox'])}; expected {box}, measured on its pixels"
            self._add(Problem.BOX, sentence, self._change(position, row, "bbox", box))

    def _change(self, position: int, row: dict[str, Any], key: str | None = None, new: Any = None) -> Change:
        """Return a change of `key` to a new value, or the removal of the row."""
        old = row if key is None else row[key]
        return Change(self._image_id, "annotations", self._index, position, key, old, new)
