"""Average precision of matched instances, computed by pycocotools.

Letters for shapes: N instances, C categories in the ground truth of an image.
"""

from __future__ import annotations

from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pycocotools.cocoeval import COCOeval

from panformer_cli.metrics.image_overlap import FloatArray, IntArray

Metric = Literal["bbox", "segm"]
METRICS: tuple[Metric, ...] = ("bbox", "segm")

AREAS, THRESHOLDS, RECALLS = 4, 10, 101
"""Numbers of area ranges (all, small, medium, large), IoU thresholds (0.50, 0.55, ... 0.95) and recalls."""

AP_RANGES: dict[str, tuple[slice | int, int]] = {
    "AP": (slice(None), 0),
    "AP50": (0, 0),
    "AP75": (5, 0),
    "APs": (slice(None), 1),
    "APm": (slice(None), 2),
    "APl": (slice(None), 3),
}
"""The first six results of pycocotools, in its order: indices of their IoU thresholds and of their area range."""

FLAG_BYTES = 2 * AREAS * THRESHOLDS // 8
Flags = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ImageDetections:
    """The matched instances of an image, as needed for AP.

    Attributes:
        image_id: dataset id of the image.
        labels: (N,) int64, ascending, at most 100 instances per label.
        scores: (N,) float64, descending within a label.
        flags: (N, 10) uint8 for each metric, packed bits of `[is matched, is ignored] x AREAS x THRESHOLDS`.
        truth_labels: (C,) int64.
        truth_counts: (C, AREAS) int64, objects in the ground truth for each area range.
    """

    image_id: int | str
    labels: IntArray
    scores: FloatArray
    flags: dict[Metric, Flags]
    truth_labels: IntArray
    truth_counts: IntArray

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads back without loss."""
        return {
            "image_id": self.image_id,
            "labels": self.labels.tolist(),
            "scores": self.scores.tolist(),
            "flags": {metric: b64encode(flags.tobytes()).decode("ascii") for metric, flags in self.flags.items()},
            "truth_labels": self.truth_labels.tolist(),
            "truth_counts": self.truth_counts.tolist(),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ImageDetections:
        """Return the detections in a `to_json` object."""
        count = len(content["labels"])
        return cls(
            image_id=content["image_id"],
            labels=np.array(content["labels"], np.int64),
            scores=np.array(content["scores"], np.float64),
            flags={
                metric: np.frombuffer(b64decode(text), np.uint8).reshape(count, FLAG_BYTES)
                for metric, text in content["flags"].items()
            },
            truth_labels=np.array(content["truth_labels"], np.int64),
            truth_counts=np.array(content["truth_counts"], np.int64).reshape(-1, AREAS),
        )


def pack_flags(matched: npt.NDArray[np.bool_], ignored: npt.NDArray[np.bool_]) -> Flags:
    """Return `ImageDetections.flags`, (N, 10) uint8, from two arrays (AREAS, THRESHOLDS, N) bool."""
    flags = np.stack([matched, ignored]).reshape(2 * AREAS * THRESHOLDS, -1 if matched.size else 0)
    return np.packbits(flags.T, axis=1)


class Detections:
    """The detections of many images, packed. AP ranks all of them together, so all must be kept.

    12 bytes per instance, 10 more per metric, and about 100 bytes per image: 3 kB for an image with 100 instances.

    Args:
        metrics: those that the images were matched for.
        num_things: number of thing labels.
    """

    def __init__(self, metrics: Sequence[Metric], num_things: int) -> None:
        self.positions: dict[int | str, int] = {}
        self._lengths = array("I")  # instances of each image
        self._labels = array("i")
        self._scores = array("d")
        self._flags = {metric: bytearray() for metric in metrics}
        self._truth_counts = np.zeros((num_things, AREAS), np.int64)

    def add(self, image: ImageDetections) -> None:
        """Add an image; it must be a new one."""
        self.positions[image.image_id] = len(self.positions)
        self._lengths.append(len(image.labels))
        self._labels.frombytes(image.labels.astype(np.intc).tobytes())
        self._scores.frombytes(image.scores.astype(np.float64).tobytes())
        for metric, flags in self._flags.items():
            flags += image.flags[metric].tobytes()
        np.add.at(self._truth_counts, image.truth_labels, image.truth_counts)

    def merge(self, other: Detections) -> None:
        """Add the images of `other`, which must be different ones with equal metrics and labels."""
        self.positions |= {image_id: len(self.positions) + position for image_id, position in other.positions.items()}
        self._lengths += other._lengths
        self._labels += other._labels
        self._scores += other._scores
        for metric, flags in self._flags.items():
            flags += other._flags[metric]
        self._truth_counts += other._truth_counts

    def average_precisions(self, metric: Metric) -> dict[str, float | None]:
        """Return APs in percent by the names of `AP_RANGES`; None if the ground truth has no object.

        Equal scores are ordered by image id, ascending, integers before strings.
        """
        precisions = np.full((THRESHOLDS, RECALLS, len(self._truth_counts), AREAS), -1.0)
        for label, detections in enumerate(self._by_label(metric)):
            precisions[:, :, label] = detections.precisions()
        results: dict[str, float | None] = {}
        for name, (thresholds, area) in AP_RANGES.items():
            values = precisions[..., area][thresholds]
            found = values[values > -1]
            results[name] = 100 * float(np.mean(found)) if found.size else None
        return results

    def _by_label(self, metric: Metric) -> Iterator[_CategoryDetections]:
        """Yield the detections of each label. The sort is stable, so the instances of an image keep their order."""
        ordered = sorted(self.positions, key=lambda image_id: (isinstance(image_id, str), image_id))
        ranks = np.zeros(len(ordered), np.uint32)
        ranks[[self.positions[image_id] for image_id in ordered]] = np.arange(len(ordered))
        labels, scores = np.asarray(self._labels), np.asarray(self._scores)
        flags = np.frombuffer(self._flags[metric], np.uint8).reshape(-1, FLAG_BYTES)
        order = np.lexsort([np.repeat(ranks, self._lengths), labels])
        limits = np.searchsorted(labels, np.arange(len(self._truth_counts) + 1), sorter=order)
        for start, end, found in zip(limits[:-1], limits[1:], self._truth_counts, strict=True):
            rows = order[start:end]
            yield _CategoryDetections(scores[rows], flags[rows], found)


@dataclass(frozen=True)
class _CategoryDetections:
    """The instances of one category in all images, image by image.

    Attributes:
        scores: (N,).
        flags: (N, 10) as in `ImageDetections`.
        truth_counts: (AREAS,) objects in the ground truth.
    """

    scores: FloatArray
    flags: Flags
    truth_counts: IntArray

    def precisions(self) -> FloatArray:
        """Return precisions (THRESHOLDS, RECALLS, AREAS) by pycocotools, -1 if there is no object.

        pycocotools takes the best 100 instances of each image and sorts all of them by score. The first step is already
        done, so all images can be passed as one.
        """
        bits = np.unpackbits(self.flags, axis=1).astype(bool).T.reshape(2, AREAS, THRESHOLDS, len(self.scores))
        evaluation = COCOeval()
        evaluation.params.imgIds = evaluation.params.catIds = [0]
        evaluation.params.maxDets = [max(1, len(self.scores))]
        evaluation._paramsEval = evaluation.params
        evaluation.evalImgs = [
            {
                "dtScores": self.scores,
                "dtMatches": bits[0, area],
                "dtIgnore": bits[1, area],
                "gtIgnore": np.zeros(self.truth_counts[area]),
            }
            for area in range(AREAS)
        ]
        with redirect_stdout(StringIO()):
            evaluation.accumulate()
        found: FloatArray = evaluation.eval["precision"][:, :, 0, :, 0]
        return found
