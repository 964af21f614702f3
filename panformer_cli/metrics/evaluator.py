"""All figures of an evaluation, counted from the records of its images as they come."""

from __future__ import annotations

import heapq
from array import array
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
from panformer_cli.metrics.image_overlap import ImageOverlap
from panformer_cli.metrics.matching import match_segments
from panformer_cli.metrics.quality import PanopticQuality, PanopticResult
from panformer_cli.metrics.semantic import SemanticQuality
from panformer_cli.metrics.sizes import SizeQuality

MetricName = Literal["panoptic", "boundary", "semantic", "bbox", "segm"]

NAMED = 10
"""Images whose ground truth contradicts itself that are named."""


class Evaluator:
    """Counts images one by one; processes that share the images `merge` their tallies, which are picklable.

    8 bytes are kept of every image; with `bbox` or `segm` also what `Detections` says.

    metrics: `panoptic` is always counted, and with it the reasons behind it; `boundary` needs records with boundaries,
        `bbox` and `segm` need detections.
    resamples: of the bootstrap; 0 for no intervals.

    Attributes:
        panoptic: PQ. disagreements: file name and phrase of the first images whose ground truth contradicts itself, in
            the order of names. disagreeing: how many there are.
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
        self.disagreeing = 0
        self.disagreements: list[tuple[str, str]] = []

    @property
    def images(self) -> int:
        """How many were counted."""
        return len(self._keys)

    @property
    def detection_metrics(self) -> tuple[Metric, ...]:
        """Which APs are counted."""
        return tuple(metric for metric in ("bbox", "segm") if metric in self.metrics)

    def add(self, record: ImageOverlap, detections: ImageDetections | None = None) -> None:
        """Count an image.

        Raises:
            DataError: the record cannot be counted; the sentence names the image.
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
            assert detections is not None, "AP is counted from detections"
            self.detection.add(detections)
        phrases = record.disagreements
        if phrases:
            self._remember(1, [(record.file_name, " and ".join(phrases))])

    def merge(self, other: Evaluator) -> None:
        """Add the images of `other`, none of the same, counted by equal metrics and categories."""
        self._keys += other._keys
        self.panoptic.merge(other.panoptic)
        self.sizes.merge(other.sizes)
        self.analysis.merge(other.analysis)
        self.resamples.merge(other.resamples)
        self.semantic.merge(other.semantic)
        self.boundary.merge(other.boundary)
        self.detection.merge(other.detection)
        self._remember(other.disagreeing, other.disagreements)

    def _remember(self, count: int, disagreements: list[tuple[str, str]]) -> None:
        self.disagreeing += count
        self.disagreements = heapq.nsmallest(NAMED, self.disagreements + disagreements)

    def figures(self) -> dict[str, Any]:
        """All figures for JSON, in percent; docs/evaluation.md defines them.

        Raises:
            DataError: an image was counted twice.
        """
        if len(np.unique(self._keys)) < self.images:
            raise DataError(f"of {self.images} images some were counted twice; expected every image once")
        figures: dict[str, Any] = {"images": self.images, "panoptic": _panoptic_figures(self.panoptic.result())}
        figures["panoptic"]["sizes"] = {name: _groups(result) for name, result in self.sizes.result().items()}
        if self.resamples.drawn.any():
            figures["intervals"] = quality_intervals(self.resamples).to_json()
        if "boundary" in self.metrics:
            figures["boundary"] = _panoptic_figures(self.boundary.result())
        if "semantic" in self.metrics:
            result = asdict(self.semantic.result())
            rows = result.pop("categories")
            per_class = {str(row["category_id"]): row for row in rows if row["union_pixels"]}
            figures["semantic"] = {**result, "per_class": per_class}
        figures |= self.detection.result() if self.detection_metrics else {}
        figures["disagreements"] = {"images": self.disagreeing, "first": [list(row) for row in self.disagreements]}
        figures["categories"] = self.categories.to_coco()
        return figures


def _panoptic_figures(result: PanopticResult) -> dict[str, Any]:
    """`{"all": {"pq", "sq", "rq", "n"}, "things": ..., "stuff": ..., "per_class": {"<category id>": {...}}}`."""
    figures = _groups(result)
    figures["per_class"] = {str(row.category_id): asdict(row) for row in result.categories if row.counts}
    return figures


def _groups(result: PanopticResult) -> dict[str, Any]:
    return {name: asdict(getattr(result, name)) for name in ("all", "things", "stuff")}
