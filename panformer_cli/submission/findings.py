"""What is wrong with a submission: kinds of problems, counted, with the first examples of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum

EXAMPLES = 10
"""Findings of one kind that are kept; more of them are only counted, so that memory stays flat."""


class Problem(Enum):
    """A kind of problem, in the order of a report; the value is its heading."""

    ZIP_DAMAGED = "the zip cannot be read"
    UNSAFE_ENTRY = "entries of the zip that are unsafe to unpack"
    WRONG_NAME = "names that the server does not expect"
    JSON_PLACE = "the JSON is not at its place"
    JSON_DAMAGED = "the JSON cannot be read"
    PNG_PLACE = "the PNGs are not at their place"
    SURPLUS_FILE = "files that do not belong to a submission"
    KEYS = "annotations or segments that lack something"
    IMAGE_MISSING = "images without a result"
    IMAGE_SURPLUS = "results for images that are not asked for"
    IMAGE_TWICE = "images with more than one result"
    PNG_MISSING = "PNGs that are missing"
    PNG_SHARED = "PNGs that several images name"
    PNG_UNLISTED = "PNGs that no annotation names"
    PNG_DAMAGED = "PNGs that cannot be read"
    PNG_FORMAT = "PNGs that are not 8-bit RGB"
    PNG_SIZE = "PNGs of another size than the image"
    SEGMENT_TWICE = "segment ids that appear twice in an image"
    SEGMENT_ID = "segment ids that a PNG cannot hold"
    SEGMENT_UNLISTED = "segments in a PNG that the JSON lacks"
    SEGMENT_NOT_DRAWN = "segments in the JSON that the PNG lacks"
    CATEGORY_UNKNOWN = "categories that the data set does not have"
    STUFF_TWICE = "stuff categories with several segments in an image"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    image: id of the image, or the file in the zip where no image is concerned.
    sentence: what is wrong, where, and what was expected.
    """

    problem: Problem
    image: str
    sentence: str


@dataclass(frozen=True)
class SubmissionReport:
    """What a check found.

    images: how many the image info asks for.
    counts: findings of each kind, in the order of `Problem`; kinds without any are left out.
    findings: the first `EXAMPLES` of each kind, in the same order, each kind by image.
    """

    images: int
    counts: dict[Problem, int]
    findings: tuple[Finding, ...]

    @property
    def is_good(self) -> bool:
        """Whether nothing was found."""
        return not self.counts


class Findings:
    """Collects findings as they come."""

    def __init__(self) -> None:
        self._counts: Counter[Problem] = Counter()
        self._kept: list[Finding] = []

    def __contains__(self, problem: Problem) -> bool:
        return problem in self._counts

    def __len__(self) -> int:
        return self._counts.total()

    def add(self, problem: Problem, image: object, sentence: str) -> None:
        self._counts[problem] += 1
        if self._counts[problem] <= EXAMPLES:
            self._kept.append(Finding(problem, str(image), sentence))

    def report(self, images: int) -> SubmissionReport:
        counts = {problem: self._counts[problem] for problem in Problem if problem in self._counts}
        kept = [finding for problem in counts for finding in self._kept if finding.problem is problem]
        return SubmissionReport(images, counts, tuple(kept))
