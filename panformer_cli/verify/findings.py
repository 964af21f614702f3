"""Problems of a data set: counts per kind, the first examples of each, and the changes that fix them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

EXAMPLES = 10
"""Maximum number of findings kept per kind and split; the others are only counted, to bound memory use."""


class Problem(Enum):
    """A kind of problem, in report order; the value is its heading."""

    JSON_DAMAGED = "the JSON cannot be read"
    JSON_LISTS = "lists in the JSON that are missing or empty"
    CATEGORY_ROW = "categories without a usable id, name or color"
    CATEGORY_TWICE = "category ids that appear twice"
    CATEGORY_NAME = "categories whose name is empty, a number or not text"
    CATEGORY_NAME_TWICE = "category names that are used twice"
    IS_THING = "categories whose isthing is missing or not 0 or 1"
    IMAGE_ROW = "rows of images without a usable id or file name"
    IMAGE_TWICE = "image ids that appear twice"
    IMAGE_UNANNOTATED = "images that are listed but not annotated"
    ANNOTATION_ROW = "annotations without a usable image_id, file_name or segments_info"
    ANNOTATION_TWICE = "images that are annotated twice"
    ANNOTATION_UNLISTED = "images that are annotated but not listed"
    NAME_UNUSABLE = "file names that point outside their folder or cannot be used"
    NAME_BACKSLASH = "file names with Windows path separators"
    NAME_NOT_ASCII = "file names that are not plain ASCII"
    IMAGE_MISSING = "missing images"
    IMAGE_DAMAGED = "images that cannot be read"
    IMAGE_ROTATED = "images whose annotation ignores their EXIF rotation"
    IMAGE_ORIENTATION = "images with an EXIF orientation that cannot be checked by size"
    IMAGE_SIZE = "images whose size differs from their PNG"
    PNG_MISSING = "missing PNGs"
    PNG_FORMAT = "PNGs that are not 8-bit RGB"
    PNG_DAMAGED = "PNGs that cannot be read"
    SIZE_LISTED = "sizes in the JSON that differ from the files"
    SEGMENT_ROW = "segments without a usable id or iscrowd"
    SEGMENT_TWICE = "segment ids that appear twice in an image"
    SEGMENT_UNLISTED = "images whose PNG has segment ids that are not in the JSON"
    SEGMENT_NOT_DRAWN = "images whose JSON lists segments without pixels in the PNG"
    CATEGORY_UNKNOWN = "segments whose category is not in the table"
    STUFF_TWICE = "stuff categories with several segments in an image"
    STUFF_CROWD = "stuff segments marked as a crowd"
    AREA = "segments whose area differs from their pixels"
    BOX = "segments whose bbox differs from their pixels"
    TINY = "segments with only a few pixels"
    LEAKAGE = "images that are also in another split"
    SPLIT_EMPTY = "splits in which no image has a segment"
    SPLIT_VOID = "splits in which most pixels are void"

    @property
    def is_warning(self) -> bool:
        """Whether the data set can be used without fixing it."""
        return self in _WARNINGS

    @property
    def severity(self) -> Literal["error", "warning"]:
        """`error` or `warning`."""
        return "warning" if self.is_warning else "error"


_WARNINGS = (
    Problem.CATEGORY_NAME,
    Problem.CATEGORY_NAME_TWICE,
    Problem.NAME_NOT_ASCII,
    Problem.IMAGE_ORIENTATION,
    Problem.TINY,
    Problem.SPLIT_VOID,
)


@dataclass(frozen=True, slots=True)
class Change:
    """One value of the JSON to change, or one segment to remove.

    Attributes:
        image_id: Id of the image.
        place: The list in the JSON.
        index: Index of the row in that list.
        segment: Index in the row's `segments_info`; None for the row itself.
        key: Key to change; None removes the segment.
        old: The value before, or the removed segment.
        new: The value after; None for a removed segment.
    """

    image_id: int | str
    place: Literal["images", "annotations"]
    index: int
    segment: int | None
    key: str | None
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem.

    Attributes:
        problem: Its kind.
        sentence: What is wrong, where, and what was expected.
        changes: The fix; empty if there is not exactly one correct fix.
    """

    problem: Problem
    sentence: str
    changes: tuple[Change, ...] = ()


@dataclass
class Count:
    """Number of findings of a kind, and how many of them can be fixed."""

    total: int = 0
    fixable: int = 0


@dataclass
class Findings:
    """Collects the findings of a split."""

    _counts: dict[Problem, Count] = field(default_factory=dict)
    _examples: dict[Problem, list[str]] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        count = self._counts.setdefault(finding.problem, Count())
        count.total += 1
        count.fixable += bool(finding.changes)
        if count.total <= EXAMPLES:
            self._examples.setdefault(finding.problem, []).append(finding.sentence)

    def report(self) -> tuple[ProblemReport, ...]:
        """Return all kinds found, in the order of `Problem`."""
        found = [problem for problem in Problem if problem in self._counts]
        return tuple(
            ProblemReport(
                problem,
                self._counts[problem].total,
                self._counts[problem].fixable,
                tuple(self._examples[problem]),
            )
            for problem in found
        )


@dataclass(frozen=True)
class ProblemReport:
    """The findings of one kind in a split.

    Attributes:
        problem: The kind.
        count: Number of findings.
        fixable: Number of findings that can be fixed.
        examples: The first sentences.
    """

    problem: Problem
    count: int
    fixable: int
    examples: tuple[str, ...]


def twice(values: Iterable[Any]) -> list[Any]:
    """Return the values that occur more than once, in order of first occurrence.

    >>> twice([3, 1, 3, 2, 1, 3])
    [3, 1]
    """
    return [value for value, count in Counter(values).items() if count > 1]
