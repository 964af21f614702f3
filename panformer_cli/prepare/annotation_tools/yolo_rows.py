"""Read the rows of YOLO's text files, and find out which kind of object they describe.

Ultralytics' formats share the file and differ in the numbers after the class:

    boxes             x y width height
    poses             x y width height, then x y, or x y visibility, of each key point
    oriented boxes    x y of 4 corners
    polygons          x y of 3 or more points

Only polygons are masks. Numbers alone do not always tell the kinds apart, so the whole split is considered.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.plain_numbers import decimal
from panformer_cli.prepare.annotation_tools.shapes import Points
from panformer_cli.prepare.left_out import (
    BAD_COORDINATES,
    BOX_ONLY,
    FEW_POINTS,
    OTHER,
    OUTSIDE,
    AnnotationError,
)
from panformer_cli.storage.text_files import decode_text
from panformer_cli.wording import counted

TOLERANCE = 0.01
"""Coordinates may be outside of 0..1 by this much; they are clipped, as by Ultralytics."""

_NUMBER = re.compile(r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]{1,3})?", re.IGNORECASE | re.ASCII)

_MOST_ROWS = 5000
"""Rows that are read to find out what the rows of a split are."""

_CLOSE = 2e-3
"""Rounding of corners in a text file, as a fraction of the image."""

_SLANT = 1e-2
"""Slant of a side that counts as horizontal or vertical, as a fraction of the image."""


_Point = tuple[float, float]


class RowForm(NamedTuple):
    """How to read the rows of a split.

    Attributes:
        has_extra_column: Each row ends in a confidence or a track id, which is ignored.
        note: A sentence about rows whose meaning the file does not determine; empty if there are none.
    """

    has_extra_column: bool = False
    note: str = ""


class Row(NamedTuple):
    """A row of a text file: line number from 1, class and other words."""

    line: int
    class_word: str
    words: list[str]


def read_rows(path: Path, encoding: str | None = None) -> Iterator[Row]:
    """Yield the nonempty rows of a text file; none if it does not exist.

    Args:
        path: The file.
        encoding: Its encoding if it is not UTF-8.

    Raises:
        DataError: It cannot be read.
    """
    try:
        text = decode_text(path.read_bytes(), path, encoding)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; expected a readable file") from error
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if words:
            yield Row(number, words[0], words[1:])


def class_number(word: str) -> int | None:
    """Return the class number in a word such as `1`, `1.0` or `1e0`; None if it is not a whole number."""
    value = float(word) if _NUMBER.fullmatch(word) else math.nan
    return int(value) if value.is_integer() and value < 1e9 else None


def polygon_of(words: Sequence[str], where: str) -> tuple[Points, bool]:
    """Return the polygon of a row, (N, 2), as fractions of width and height, 0..1, and whether it was clipped.

    Args:
        words: The numbers of the row.
        where: File and line, for errors.

    Raises:
        DataError: They are not a polygon, or not in the image.
    """
    if len(words) == 4:
        raise AnnotationError(
            f"{where} is a detection box; expected a polygon, `class x1 y1 x2 y2 x3 y3 ...`; export the data set for "
            "segmentation",
            BOX_ONLY,
        )
    if len(words) < 6 or len(words) % 2:
        raise AnnotationError(
            f"{where} has {len(words)} numbers after the class; expected x and y of 3 or more points; export it again",
            FEW_POINTS if len(words) < 6 else OTHER,
        )
    try:
        points = np.array([decimal(word) for word in words]).reshape(-1, 2)
    except ValueError as error:
        raise AnnotationError(
            f"{where} contains non-numbers; expected numbers from 0 to 1; export it again", BAD_COORDINATES
        ) from error
    # Negated so that NaN is also rejected.
    wrong = points[~((points >= -TOLERANCE) & (points <= 1 + TOLERANCE))]
    if wrong.size:
        raise AnnotationError(
            f"{where} has the coordinate {wrong[0]:g}; expected fractions of width and height from 0 to 1; divide "
            "pixels by the image size, or export it again",
            OUTSIDE,
        )
    clipped = points.clip(0, 1)
    return clipped, bool((clipped != points).any())


def form_of_rows(
    files: Iterable[Path], where: str, accepts_oriented_boxes: bool, encoding: str | None = None
) -> RowForm:
    """Return how to read the rows of a split. Reads as many files as are needed to find out, up to `_MOST_ROWS` rows.

    Args:
        files: The text files of the split. Unreadable ones are ignored here and reported with their image.
        where: The split, for errors.
        accepts_oriented_boxes: Use oriented boxes as the masks of their objects.
        encoding: Encoding of files that are not UTF-8.

    Raises:
        DataError: The rows are boxes, poses or oriented boxes.
    """
    common = _Common()
    for path in files:
        try:
            for row in read_rows(path, encoding):
                common.add(row.words)
        except DataError:
            continue
        if (common.rows and not common.kinds) or common.rows >= _MOST_ROWS:
            break
    return common.form(where, accepts_oriented_boxes)


@dataclass
class _Common:
    """What all rows so far have in common.

    Attributes:
        kinds: Kinds other than polygons that all rows could be.
        words: Numbers in each row.
        crossing: Rows that would be polygons whose outline crosses itself.
        rotated: Rows that are not parallel to the image's edges.
    """

    rows: int = 0
    kinds: set[str] = field(default_factory=lambda: {"boxes", "3d poses", "2d poses", "corners", "oriented", "extra"})
    words: int = 0
    crossing: int = 0
    rotated: int = 0
    has_track_id: bool = False

    def add(self, words: Sequence[str]) -> None:
        """Count a row."""
        if not self.kinds:
            return
        if self.rows and len(words) != self.words:
            self.kinds -= {"boxes", "3d poses", "2d poses"}
        self.rows, self.words = self.rows + 1, len(words)
        try:
            values = [decimal(word) for word in words]
        except ValueError:
            self.kinds.clear()
            return
        self.kinds &= set(_possible_kinds(values))
        self.crossing += "2d poses" in self.kinds and _crosses_itself(values)
        self.rotated += "oriented" in self.kinds and not _is_upright(values)
        self.has_track_id |= "extra" in self.kinds and values[-1] > 1

    def form(self, where: str, accepts_oriented_boxes: bool) -> RowForm:
        """Return how to read the rows; raises as `form_of_rows`."""
        if not self.rows:
            return RowForm()
        first = "first " if self.rows >= _MOST_ROWS else ""
        row = f"each of the {first}{self.rows} rows" if self.rows > 1 else "the only row"
        if "boxes" in self.kinds and (self.words == 4 or self.rows > 1):
            numbers = "class, x, y, width, height" + (", and a confidence or track id" if self.words == 5 else "")
            raise DataError(
                f"{where}: {row} of the text files is a detection box ({numbers}), which is no mask; "
                "expected polygons, `class x1 y1 x2 y2 x3 y3 ...`; export the data set for segmentation"
            )
        is_pose = "3d poses" in self.kinds or ("2d poses" in self.kinds and 2 * self.crossing > self.rows)
        if is_pose:
            points = (self.words - 4) // (3 if "3d poses" in self.kinds else 2)
            raise DataError(
                f"{where}: {row} of the text files is a pose (a box and {counted(points, 'key point')}), which is "
                "no mask; expected polygons, `class x1 y1 x2 y2 x3 y3 ...`; export the data set for segmentation"
            )
        if "oriented" in self.kinds and self.rotated and not accepts_oriented_boxes:
            raise DataError(
                f"{where}: {row} of the text files has the four corners of a rectangle, as in data sets of oriented "
                "boxes (OBB); expected outlines; export the data set for segmentation, or use these boxes as masks "
                "with --accept-oriented-boxes"
            )
        if "corners" in self.kinds and not accepts_oriented_boxes:
            return RowForm(
                note=f"{row} of the text files has four corners and is read as a polygon; if these are "
                "oriented boxes (OBB), the masks are boxes instead of outlines"
            )
        if "extra" in self.kinds and self.rows > 1:
            column = "track id" if self.has_track_id else "confidence"
            return RowForm(True, f"the last number of every row is a {column} and is ignored")
        return RowForm()


def _possible_kinds(values: Sequence[float]) -> Iterator[str]:
    """Yield the kinds other than a polygon that the numbers of a row could be."""
    is_extra = 0 <= values[-1] <= 1 or (values[-1] > 1 and values[-1].is_integer()) if values else False
    if _is_box(values) and (len(values) == 4 or (len(values) == 5 and is_extra)):
        yield "boxes"
    if len(values) > 6 and (len(values) - 4) % 3 == 0 and _is_box(values) and set(values[6::3]) <= {0, 1, 2}:
        yield "3d poses"
    if len(values) > 4 and len(values) % 2 == 0 and _is_box(values) and _is_around(values[:4], values[4:]):
        yield "2d poses"
    if len(values) == 8:
        yield "corners"
        if _is_parallelogram(values):
            yield "oriented"
    if len(values) > 6 and len(values) % 2 == 1 and is_extra:
        yield "extra"


def _is_box(values: Sequence[float]) -> bool:
    """Return whether the first four numbers are center and size of a box in the image."""
    if len(values) < 4:
        return False
    x, y, width, height = values[:4]
    low, high = -TOLERANCE, 1 + TOLERANCE
    return (
        min(width, height) > 0
        and low <= min(x - width / 2, y - height / 2)
        and max(x + width / 2, y + height / 2) <= high
    )


def _is_around(box: Sequence[float], points: Sequence[float]) -> bool:
    """Return whether key points are in a box enlarged by a tenth; (0, 0) is a key point that is not annotated."""
    x, y, width, height = box
    return all(
        (px, py) == (0, 0) or (abs(px - x) <= 0.6 * width and abs(py - y) <= 0.6 * height)
        for px, py in zip(points[::2], points[1::2], strict=True)
    )


def _is_parallelogram(values: Sequence[float]) -> bool:
    """Return whether 4 corners are those of a rotated rectangle, whatever the shape of the image."""
    ax, ay, bx, by, cx, cy, dx, dy = values
    return max(abs(ax - bx + cx - dx), abs(ay - by + cy - dy)) < _CLOSE


def _is_upright(values: Sequence[float]) -> bool:
    """Return whether each side of 4 corners is horizontal or vertical."""
    return all(min(abs(bx - ax), abs(by - ay)) < _SLANT for (ax, ay), (bx, by) in _sides(values))


def _crosses_itself(values: Sequence[float]) -> bool:
    """Return whether two sides of a polygon cross, not only touch."""
    return any(_cross(*first, *second) for first, second in combinations(_sides(values), 2))


def _sides(values: Sequence[float]) -> list[tuple[_Point, _Point]]:
    """Return the sides of a polygon."""
    points = list(zip(values[::2], values[1::2], strict=True))
    return list(zip(points, [*points[1:], points[0]], strict=True))


def _cross(a: _Point, b: _Point, c: _Point, d: _Point) -> bool:
    def side(p: _Point, q: _Point, r: _Point) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
