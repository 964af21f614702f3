"""Calibration of the scores: the fraction of predicted segments that match, by score."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.errors import DataError
from panformer_cli.metrics.image_overlap import ImageOverlap
from panformer_cli.metrics.matching import Matching

BINS = 10
"""Equal bins of the score; the last one includes 1."""

# Scores and IoUs are summed as integers of this unit, so the sums do not depend on the order of the images. Scores are
# truncated to 53 binary places.
_UNITS = 2**53


@dataclass
class _Bin:
    """Counts of the predicted and the matched segments of a bin, and sums in units of 2^-53."""

    n: int = 0
    matched: int = 0
    score_units: int = 0
    iou_units: int = 0

    @property
    def mean_score(self) -> float:
        return self.score_units / (_UNITS * self.n) if self.n else 0.0

    @property
    def share(self) -> float:
        return self.matched / self.n if self.n else 0.0

    def merge(self, other: _Bin) -> None:
        self.n += other.n
        self.matched += other.matched
        self.score_units += other.score_units
        self.iou_units += other.iou_units


@dataclass
class Reliability:
    """Ten bins of predicted segments, by score."""

    bins: list[_Bin] = field(default_factory=lambda: [_Bin() for _ in range(BINS)])

    def add(self, score: float, iou: float | None) -> None:
        """Add a predicted segment.

        Args:
            score: 0..1.
            iou: with its match; None if it has none.
        """
        row = self.bins[min(int(score * BINS), BINS - 1)]
        row.n += 1
        row.score_units += int(score * _UNITS)
        if iou is not None:
            row.matched += 1
            row.iou_units += int(iou * _UNITS)

    def merge(self, other: Reliability) -> None:
        """Add the segments of `other`."""
        for own, theirs in zip(self.bins, other.bins, strict=True):
            own.merge(theirs)

    @property
    def expected_error(self) -> float | None:
        """Expected calibration error (ECE), 0..1: the mean of |score - matched fraction|; None without segments.

        Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", 2015.
        """
        n = sum(row.n for row in self.bins)
        return sum(row.n * abs(row.share - row.mean_score) for row in self.bins) / n if n else None

    def to_json(self) -> dict[str, Any]:
        """Return `{"n", "ece", "bins": [{"from", "to", "n", "score", "matched", "iou"}, ...]}`.

        In each bin: mean score, fraction of matched segments and mean IoU of these, 0..1; null if the bin is empty.
        """
        rows = [
            {
                "from": index / BINS,
                "to": (index + 1) / BINS,
                "n": row.n,
                "score": row.mean_score if row.n else None,
                "matched": row.share if row.n else None,
                "iou": row.iou_units / (_UNITS * row.matched) if row.matched else None,
            }
            for index, row in enumerate(self.bins)
        ]
        return {"n": sum(row.n for row in self.bins), "ece": self.expected_error, "bins": rows}


class Calibration:
    """Calibration of things and stuff, without ignored predictions and predictions without a score."""

    def __init__(self, categories: CategoryTable) -> None:
        self.categories = categories
        self.things = Reliability()
        self.stuff = Reliability()

    def add(self, record: ImageOverlap, matching: Matching) -> None:
        """Add one image. Scores above 1 count as 1, since mask quality has no upper bound (docs/model.md,
        "Inference and merging").

        Raises:
            DataError: a score is negative or not finite.
        """
        iou_of: dict[int, float | None] = dict.fromkeys(matching.wrong.tolist())
        iou_of.update(zip(matching.columns.tolist(), matching.iou.tolist(), strict=True))
        is_thing = (matching.labels < self.categories.num_things).tolist()
        for column, iou in iou_of.items():
            segment = record.predictions[column]
            if segment.score is None:
                continue
            if not (isfinite(segment.score) and segment.score >= 0):
                raise DataError(
                    f"{record.file_name}, prediction: segment {segment.id} has the score {segment.score}; "
                    "expected 0 or more, or no score"
                )
            group = self.things if is_thing[column] else self.stuff
            group.add(min(segment.score, 1.0), iou)

    def merge(self, other: Calibration) -> None:
        """Add the images of `other`."""
        self.things.merge(other.things)
        self.stuff.merge(other.stuff)

    def to_json(self) -> dict[str, Any]:
        """Return `{"things": Reliability.to_json(), "stuff": ...}`."""
        return {"things": self.things.to_json(), "stuff": self.stuff.to_json()}
