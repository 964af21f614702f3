"""The PNG of one image against its `segments_info`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_png import MAX_ID, decode_panoptic_png, read_png_header, segment_ids
from panformer_cli.submission.archive import Archive
from panformer_cli.submission.findings import Findings, Problem
from panformer_cli.submission.forms import ImageId
from panformer_cli.wording import listing, short

MAX_PIXELS = 2**27
"""A PNG that declares more is not decoded, even where the image info gives no size."""

_PNG_END = b"IEND\xaeB`\x82"


class SegmentChecks:
    """Checks the PNGs and segments of one image after another."""

    def __init__(self, archive: Archive, categories: CategoryTable, findings: Findings) -> None:
        self._archive = archive
        self._categories = categories
        self._findings = findings

    def add(self, image_id: ImageId, png: str, data: bytes, size: tuple[int, int] | None, rows: list[Any]) -> None:
        """Check an image.

        data: the PNG. size: width and height that it must have, or None. rows: its `segments_info`.
        """
        where = f"image {image_id!r}"
        category_of_id = self._read_rows(where, image_id, rows)
        drawn = self._read_png(where, image_id, png, data, size)
        if category_of_id is None or drawn is None:
            return
        self._check_categories(where, image_id, category_of_id)
        listed = set(category_of_id)
        if drawn - listed:
            sentence = (
                f"{where}: {png} holds the segment ids {listing(sorted(drawn - listed))}, which segments_info lacks"
            )
            self._findings.add(Problem.SEGMENT_UNLISTED, image_id, f"{sentence}; expected the same ids in both")
        if listed - drawn:
            sentence = (
                f"{where}: segments_info lists the segment ids {listing(sorted(listed - drawn))}, which {png} lacks"
            )
            self._findings.add(Problem.SEGMENT_NOT_DRAWN, image_id, f"{sentence}; expected the same ids in both")

    def _read_rows(self, where: str, image_id: ImageId, rows: list[Any]) -> dict[int, int] | None:
        """Category by segment id; None where a row cannot be used, for then the PNG cannot agree with it."""
        category_of_id: dict[int, int] = {}
        for row in rows:
            problem = _problem_of(row, category_of_id)
            if problem is not None:
                kind, expected = problem
                self._findings.add(kind, image_id, f"{where} has the segment {short(row)}; expected {expected}")
                return None
            category_of_id[row["id"]] = row["category_id"]
        return category_of_id

    def _check_categories(self, where: str, image_id: ImageId, category_of_id: Mapping[int, int]) -> None:
        for category_id, count in sorted(Counter(category_of_id.values()).items()):
            if category_id not in self._categories:
                sentence = f"{where} uses the category_id {category_id}; expected the ids of the data set"
                self._findings.add(Problem.CATEGORY_UNKNOWN, image_id, sentence)
            elif count > 1 and not self._categories.by_id(category_id).is_thing:
                name = self._categories.by_id(category_id).name
                sentence = f"{where} has {count} segments of the stuff category {category_id} ({name}); expected one"
                self._findings.add(Problem.STUFF_TWICE, image_id, sentence)

    def _read_png(
        self, where: str, image_id: ImageId, png: str, data: bytes, size: tuple[int, int] | None
    ) -> set[int] | None:
        """Return the segment ids in a PNG; None, with a finding added, if it cannot be used."""
        problem = _header_problem(data, size)
        if problem is not None:
            kind, reason = problem
            self._findings.add(kind, image_id, f"{where}: {png} {reason}")
            return None
        # Stricter than the decoder, which accepts a truncated checksum.
        ids = decode_panoptic_png(data) if _PNG_END in data[-64:] else None
        if ids is None:
            sentence = f"{where}: {png} is corrupt or truncated; expected a whole PNG"
            self._findings.add(Problem.PNG_DAMAGED, image_id, sentence)
            return None
        return segment_ids(ids)


def _header_problem(data: bytes, size: tuple[int, int] | None) -> tuple[Problem, str] | None:
    """What is wrong with a PNG, by its header alone."""
    header = read_png_header(data)
    if header is None:
        return Problem.PNG_FORMAT, "is no PNG; expected an 8-bit RGB PNG"
    if not header.is_rgb8:
        return (
            Problem.PNG_FORMAT,
            f"has {header.depth} bits and PNG colour type {header.color_type}; expected 8 bits and type 2, RGB",
        )
    width, height = header.width, header.height
    if (size is not None and size != (width, height)) or width * height > MAX_PIXELS:
        expected = f"{size[0]}x{size[1]}" if size else f"at most {MAX_PIXELS} pixels"
        return Problem.PNG_SIZE, f"is {width}x{height} (width x height); expected {expected}"
    return None


def _problem_of(row: Any, known: Mapping[int, int]) -> tuple[Problem, str] | None:
    """What is wrong with a row of `segments_info`, and what was expected."""
    if not isinstance(row, Mapping) or type(row.get("id")) is not int or type(row.get("category_id")) is not int:
        return Problem.KEYS, "an object with the whole numbers id and category_id"
    if not 0 < row["id"] <= MAX_ID:
        return Problem.SEGMENT_ID, f"an id from 1 to {MAX_ID}, since 0 is void"
    if row["id"] in known:
        return Problem.SEGMENT_TWICE, "an id of its own for every segment of the image"
    return None
