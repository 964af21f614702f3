"""All metrics of an evaluation, accumulated from image overlaps."""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.errors import DataError
from panformer_cli.metrics.analysis.panoptic_analysis import PanopticAnalysis
from panformer_cli.metrics.average_precision import ImageDetections, Metric
from panformer_cli.metrics.bootstrap import Resamples, image_key, quality_intervals
from panformer_cli.metrics.detection import DetectionQuality
from panformer_cli.metrics.image_overlap import VOID_ROW, ImageOverlap
from panformer_cli.metrics.matching import match_segments
from panformer_cli.metrics.quality import PanopticQuality, PanopticResult
from panformer_cli.metrics.semantic import SemanticQuality
from panformer_cli.metrics.sizes import SizeQuality

MetricName = Literal["panoptic", "boundary", "semantic", "bbox", "segm"]

NAMED = 10
"""Maximum number of inconsistently annotated images that are listed."""

COVERAGE = ("segments", "pixels", "void", "predicted", "predicted_on_void")
"""Keys of `coverage_of`."""


class Evaluator:
    """Accumulates all metrics: images are added one by one; processes `merge` their evaluators, which are picklable.

    It keeps 8 bytes per image; with `bbox` or `segm` also the data of `Detections`.

    Args:
        categories: the category table.
        metrics: `panoptic`, with its analysis, is always computed; `boundary` needs overlaps with boundary IoUs, `bbox`
            and `segm` need detections.
        resamples: of the bootstrap; 0 for no intervals.

    Attributes:
        panoptic: PQ.
        coverage: ground truth segments, and the pixels that are void or predicted; see `coverage_of`.
        disagreements: file name and problem of the first images whose ground truth is inconsistent, ordered by name.
        disagreeing: number of such images.
    """

    def __init__(
        self, categories: CategoryTable, metrics: Sequence[MetricName] = ("panoptic",), resamples: int = 0
    ) -> None:
        self.categories = categories
        self.metrics = frozenset(metrics)
        self._keys = array("Q")
        self.panoptic = PanopticQuality(categories)
        self.sizes = SizeQuality(categories)
        self.analysis = PanopticAnalysis(categories)
        self.resamples = Resamples(categories, resamples)
        self.semantic = SemanticQuality(categories)
        self.boundary = PanopticQuality(categories)
        self.detection = DetectionQuality(categories, self.detection_metrics)
        self.coverage = Counter(dict.fromkeys(COVERAGE, 0))
        self.disagreeing = 0
        self.disagreements: list[tuple[str, str]] = []

    @property
    def images(self) -> int:
        """Number of images added."""
        return len(self._keys)

    @property
    def detection_metrics(self) -> tuple[Metric, ...]:
        """The APs that are computed."""
        return tuple(metric for metric in ("bbox", "segm") if metric in self.metrics)

    def add(self, record: ImageOverlap, detections: ImageDetections | None = None) -> None:
        """Add an image.

        Raises:
            DataError: the overlap cannot be evaluated; the message names the image.
        """
        matching = match_segments(record, self.categories)
        self._keys.append(image_key(record.image_id))
        self.panoptic.add(matching)
        self.sizes.add(matching, record)
        self.analysis.add(record, matching)
        self.resamples.add(record.image_id, matching)
        if "semantic" in self.metrics:
            self.semantic.add(matching, record)
        if "boundary" in self.metrics:
            self.boundary.add(match_segments(record, self.categories, boundary=True))
        if self.detection_metrics:
            assert detections is not None, "AP needs detections"
            self.detection.add(detections)
        self.coverage.update(coverage_of(record))
        phrases = record.disagreements
        if phrases:
            self._remember(1, [(record.file_name, " and ".join(phrases))])

    def merge(self, other: Evaluator) -> None:
        """Add the images of `other`, which must be different ones, with equal metrics and categories."""
        self._keys += other._keys
        self.panoptic.merge(other.panoptic)
        self.sizes.merge(other.sizes)
        self.analysis.merge(other.analysis)
        self.resamples.merge(other.resamples)
        self.semantic.merge(other.semantic)
        self.boundary.merge(other.boundary)
        self.detection.merge(other.detection)
        self.coverage.update(other.coverage)
        self._remember(other.disagreeing, other.disagreements)

    def _remember(self, count: int, disagreements: list[tuple[str, str]]) -> None:
        self.disagreeing += count
        self.disagreements = heapq.nsmallest(NAMED, self.disagreements + disagreements)

    def results(self) -> dict[str, Any]:
        """Return all metrics as JSON, in percent; docs/evaluation.md defines them.

        Raises:
            DataError: an image was added twice.
        """
        if len(np.unique(self._keys)) < self.images:
            raise DataError(f"some of {self.images} images were added twice; expected each image once")
        results: dict[str, Any] = {"images": self.images, "panoptic": _panoptic_results(self.panoptic.result())}
        results["panoptic"]["sizes"] = {name: _groups(result) for name, result in self.sizes.result().items()}
        if self.resamples.drawn.any():
            results["intervals"] = quality_intervals(self.resamples).to_json()
        if "boundary" in self.metrics:
            results["boundary"] = _panoptic_results(self.boundary.result())
        if "semantic" in self.metrics:
            result = asdict(self.semantic.result())
            rows = result.pop("categories")
            per_class = {str(row["category_id"]): row for row in rows if row["union_pixels"]}
            results["semantic"] = {**result, "per_class": per_class}
        results |= self.detection.result() if self.detection_metrics else {}
        results["coverage"] = dict(self.coverage)
        results["disagreements"] = {"images": self.disagreeing, "first": [list(row) for row in self.disagreements]}
        results["categories"] = self.categories.to_coco()
        return results


def coverage_of(record: ImageOverlap) -> dict[str, int]:
    """Return how much of an image is annotated and predicted, by the names in `COVERAGE`.

    These are the segments of the ground truth, all pixels, those that are void in the ground truth, those of predicted
    segments, and those of predicted segments that are void in the ground truth.
    """
    counts = (
        len(record.truth),
        record.overlap.sum(),
        record.overlap[VOID_ROW].sum(),
        record.predicted_pixels.sum(),
        record.predicted_on_void.sum(),
    )
    return dict(zip(COVERAGE, map(int, counts), strict=True))


def _panoptic_results(result: PanopticResult) -> dict[str, Any]:
    """Return `{"all": {"pq", "sq", "rq", "n"}, "things": ..., "stuff": ..., "per_class": {"<category id>": {...}}}`."""
    results = _groups(result)
    results["per_class"] = {str(row.category_id): asdict(row) for row in result.categories if row.counts}
    return results


def _groups(result: PanopticResult) -> dict[str, Any]:
    return {name: asdict(getattr(result, name)) for name in ("all", "things", "stuff")}
