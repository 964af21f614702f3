"""What a check finds: kinds of problems, counted, with the first examples of each, and the changes that mend them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

EXAMPLES = 10
"""Findings of one kind that are kept of a split; more of them are only counted, so that memory stays flat."""


class Problem(Enum):
    """A kind of problem, in the order of a report; the value is its heading."""

    JSON_DAMAGED = "the JSON cannot be read"
    JSON_LISTS = "lists that the JSON lacks, or that are empty"
    CATEGORY_ROW = "categories without a usable id, name or color"
    CATEGORY_TWICE = "category ids that appear twice"
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
    IMAGE_MISSING = "images that are missing"
    IMAGE_DAMAGED = "images that cannot be read"
    IMAGE_ROTATED = "images whose EXIF rotation the annotation does not follow"
    IMAGE_ORIENTATION = "images with an EXIF orientation that sizes cannot confirm"
    IMAGE_SIZE = "images of another size than their PNG"
    PNG_MISSING = "PNGs that are missing"
    PNG_FORMAT = "PNGs that are not 8-bit RGB"
    PNG_DAMAGED = "PNGs that cannot be read"
    SIZE_LISTED = "sizes in the JSON that are not those of the files"
    SEGMENT_ROW = "segments without a usable id or iscrowd"
    SEGMENT_TWICE = "segment ids that appear twice in an image"
    SEGMENT_UNLISTED = "images whose PNG holds segment ids that the JSON lacks"
    SEGMENT_NOT_DRAWN = "images whose JSON lists segments without a pixel in the PNG"
    CATEGORY_UNKNOWN = "segments whose category the table lacks"
    STUFF_TWICE = "stuff categories with several segments in an image"
    STUFF_CROWD = "segments of stuff that are marked as a crowd"
    AREA = "segments whose area is not that of their pixels"
    BOX = "segments whose bbox is not that of their pixels"
    TINY = "segments of a few pixels"
    LEAKAGE = "images that another split holds too"

    @property
    def is_warning(self) -> bool:
        """Whether it only deserves a look: a data set with nothing else is usable as it is."""
        return self in (Problem.NAME_NOT_ASCII, Problem.IMAGE_ORIENTATION, Problem.TINY)

    @property
    def severity(self) -> Literal["error", "warning"]:
        """In one word."""
        return "warning" if self.is_warning else "error"


@dataclass(frozen=True, slots=True)
class Change:
    """One value of the JSON to be changed, or one segment to be taken out.

    image_id: of the image concerned.
    place: the list of the JSON, and `index` the position of the row in it.
    segment: the position in the `segments_info` of that row; None for the row itself.
    key: what is changed; None takes the segment out.
    old, new: the value before and after; for a segment taken out, the segment and None.
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
    """One thing that is wrong.

    sentence: what is wrong, where, and what was expected.
    changes: what mends it; empty where there is no one right answer.
    """

    problem: Problem
    sentence: str
    changes: tuple[Change, ...] = ()


@dataclass
class Count:
    """How many findings there are of a kind, and how many of them have one right answer."""

    total: int = 0
    fixable: int = 0


@dataclass
class Findings:
    """Collects the findings of a split as they come.

    counts: by kind. examples: sentences of the first `EXAMPLES` of each kind.
    """

    _counts: dict[Problem, Count] = field(default_factory=dict)
    _examples: dict[Problem, list[str]] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        count = self._counts.setdefault(finding.problem, Count())
        count.total += 1
        count.fixable += bool(finding.changes)
        if count.total <= EXAMPLES:
            self._examples.setdefault(finding.problem, []).append(finding.sentence)

    def report(self) -> tuple[ProblemReport, ...]:
        """All kinds that were found, in the order of `Problem`."""
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

    count: all of them; `fixable` of these have one right answer.
    examples: the first sentences.
    """

    problem: Problem
    count: int
    fixable: int
    examples: tuple[str, ...]


def twice(values: Iterable[Any]) -> list[Any]:
    """The values that come more than once, in the order of their first time.

    >>> twice([3, 1, 3, 2, 1, 3])
    [3, 1]
    """
    return [value for value, count in Counter(values).items() if count > 1]
