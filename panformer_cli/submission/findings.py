"""Problems of a submission: counts per kind and the first examples of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum

EXAMPLES = 10
"""Maximum number of findings kept per kind; the others are only counted, to bound memory use."""


class Problem(Enum):
    """A kind of problem, in report order; the value is its heading."""

    ZIP_DAMAGED = "the zip cannot be read"
    UNSAFE_ENTRY = "zip entries that are unsafe to unpack"
    WRONG_NAME = "names that the server does not expect"
    JSON_PLACE = "the JSON is missing or in the wrong location"
    JSON_DAMAGED = "the JSON cannot be read"
    PNG_PLACE = "the PNGs are in the wrong location"
    SURPLUS_FILE = "files that do not belong to a submission"
    KEYS = "annotations or segments with missing keys"
    IMAGE_MISSING = "images without a result"
    IMAGE_SURPLUS = "results for images that are not in the split"
    IMAGE_TWICE = "images with more than one result"
    PNG_MISSING = "missing PNGs"
    PNG_SHARED = "PNGs listed by several images"
    PNG_UNLISTED = "PNGs that no annotation lists"
    PNG_DAMAGED = "PNGs that cannot be read"
    PNG_FORMAT = "PNGs that are not 8-bit RGB"
    PNG_SIZE = "PNGs whose size differs from the image"
    SEGMENT_TWICE = "segment ids that appear twice in an image"
    SEGMENT_ID = "segment ids outside of the valid range"
    SEGMENT_UNLISTED = "segments in a PNG that are not in the JSON"
    SEGMENT_NOT_DRAWN = "segments in the JSON that are not in the PNG"
    CATEGORY_UNKNOWN = "categories that the data set does not have"
    STUFF_TWICE = "stuff categories with several segments in an image"


@dataclass(frozen=True)
class Finding:
    """One problem.

    Attributes:
        image: Image id, or the file in the zip if the problem does not concern an image.
        sentence: What is wrong, where, and what was expected.
    """

    problem: Problem
    image: str
    sentence: str


@dataclass(frozen=True)
class SubmissionReport:
    """The result of a check.

    Attributes:
        images: Number of images in the image info.
        counts: Number of findings per kind, in the order of `Problem`, without zeros.
        findings: The first `EXAMPLES` of each kind, in the same order, sorted by image.
    """

    images: int
    counts: dict[Problem, int]
    findings: tuple[Finding, ...]

    @property
    def is_good(self) -> bool:
        """Whether there are no findings."""
        return not self.counts


class Findings:
    """Collects findings."""

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
