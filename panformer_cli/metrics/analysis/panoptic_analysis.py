"""Error analysis of PQ: causes of lost points, confusion, calibration and worst images.

It is computed from image overlaps one by one, in memory that does not grow with the number of images.
"""

from __future__ import annotations

from typing import Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.metrics.analysis.attribution import Attribution
from panformer_cli.metrics.analysis.calibration import Calibration
from panformer_cli.metrics.analysis.causes import Cause, find_causes
from panformer_cli.metrics.analysis.confusion import Confusion
from panformer_cli.metrics.analysis.lost_points import LostPoints
from panformer_cli.metrics.analysis.worst_images import WorstImages
from panformer_cli.metrics.image_overlap import FloatArray, ImageOverlap
from panformer_cli.metrics.matching import Matching, match_segments
from panformer_cli.metrics.sizes import SIZES

WORST = 20
"""Number of worst images kept."""


class PanopticAnalysis:
    """Accumulates the analysis: images are added one by one; processes `merge` their parts, which are picklable."""

    def __init__(self, categories: CategoryTable, worst: int = WORST) -> None:
        self.categories = categories
        self.attribution = Attribution(categories)
        self.confusion = Confusion(categories)
        self.calibration = Calibration(categories)
        self.worst = WorstImages(worst)

    def update(self, record: ImageOverlap) -> None:
        """Match and add one image; errors as `match_segments`."""
        self.add(record, match_segments(record, self.categories))

    def add(self, record: ImageOverlap, matching: Matching) -> None:
        """Add one image that is already matched.

        Raises:
            DataError: the score of a prediction is negative or not finite.
        """
        causes = find_causes(record, matching, self.categories)
        image = Attribution(self.categories)
        image.add(record, matching, causes)
        self.calibration.add(record, matching)
        self.attribution.merge(image)
        self.confusion.add(record, matching, causes)
        self.worst.add(record, image)

    def merge(self, other: PanopticAnalysis) -> None:
        """Add the images of `other`, which must be different ones, with an equal category table."""
        self.attribution.merge(other.attribution)
        self.confusion.merge(other.confusion)
        self.calibration.merge(other.calibration)
        self.worst.merge(other.worst)

    def to_json(self) -> dict[str, Any]:
        """Return all tables, as described in docs/evaluation.md; points are PQ points."""
        lost = self.attribution.result()
        labels = range(len(self.categories))
        things, stuff = labels[: self.categories.num_things], labels[self.categories.num_things :]
        return {
            "causes": {
                name: _points(lost.mean(group).sum(axis=0))
                for name, group in (("all", labels), ("things", things), ("stuff", stuff))
            },
            "cause_gains": _by_cause(lost.cause_gains),
            "sizes": {name: _size_row(lost, size) for size, name in enumerate(SIZES)},
            "per_class": self._per_class(lost),
            "confusion": self.confusion.to_json(),
            "calibration": self.calibration.to_json(),
            "worst_images": [image.to_json() for image in self.worst.images],
        }

    def _per_class(self, lost: LostPoints) -> list[dict[str, Any]]:
        """Return a row per category that counts, in descending potential gain."""
        rows = []
        for label in lost.counting:
            category = self.categories.by_label(label)
            best = Cause(int(lost.gains[label].argmax()))
            rows.append(
                {
                    "category_id": category.id,
                    "name": category.name,
                    "is_thing": category.is_thing,
                    "pq": float(lost.pq[label]),
                    "cause": best.key,
                    "gain": float(lost.gains[label, best]),
                    "lost": _points(lost.points[label].sum(axis=0)),
                    "gains": _by_cause(lost.gains[label]),
                }
            )
        return sorted(rows, key=lambda row: -row["gain"])


def _size_row(lost: LostPoints, size: int) -> dict[str, Any]:
    counts = {name: int(getattr(lost, name)[:, size].sum()) for name in ("tp", "fp", "fn")}
    return {**counts, **_points(lost.mean(lost.counting)[size])}


def _points(by_cause: FloatArray) -> dict[str, float]:
    """Return `{"total": sum, "missed": ..., ...}`."""
    return {"total": float(by_cause.sum()), **_by_cause(by_cause)}


def _by_cause(values: FloatArray) -> dict[str, float]:
    return {cause.key: float(values[cause]) for cause in Cause}
