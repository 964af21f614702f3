"""From matched instances to average precision, by pycocotools.

Letters for shapes: N instances, C categories of an image's ground truth.
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
"""pycocotools' ranges of area (all, small, medium, large), thresholds of IoU (0.50, 0.55, ... 0.95), and recalls."""

FIGURES: dict[str, tuple[slice | int, int]] = {
    "AP": (slice(None), 0),
    "AP50": (0, 0),
    "AP75": (5, 0),
    "APs": (slice(None), 1),
    "APm": (slice(None), 2),
    "APl": (slice(None), 3),
}
"""pycocotools' first six figures, in its order: their thresholds of IoU and their range of area, by place."""

FLAG_BYTES = 2 * AREAS * THRESHOLDS // 8
Flags = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ImageDetections:
    """How the instances of an image match: all that AP needs.

    labels: (N,) int64, ascending, not more than 100 of each. scores: (N,) float64, descending within a label.
    flags: by metric (N, 10) uint8, packed bits of `[is it matched, is it ignored] x AREAS x THRESHOLDS`.
    truth_labels: (C,) int64. truth_counts: (C, AREAS) int64, objects to be found in every range of area.
    """

    image_id: int | str
    labels: IntArray
    scores: FloatArray
    flags: dict[Metric, Flags]
    truth_labels: IntArray
    truth_counts: IntArray

    def to_json(self) -> dict[str, Any]:
        """For one line of JSON; `from_json` reads it back without loss."""
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
        """Detections from `to_json`."""
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
    """(N, 10) uint8 for `ImageDetections.flags`, of two (AREAS, THRESHOLDS, N) bool."""
    flags = np.stack([matched, ignored]).reshape(2 * AREAS * THRESHOLDS, -1 if matched.size else 0)
    return np.packbits(flags.T, axis=1)


class Detections:
    """The detections of many images, packed: AP ranks all of them, so all are needed at the end.

    12 bytes an instance, 10 more for each metric, and some 100 bytes an image: 3 kB for an image with 100 instances.

    metrics: those that the images were matched by. num_things: labels that instances have.
    """

    def __init__(self, metrics: Sequence[Metric], num_things: int) -> None:
        self.places: dict[int | str, int] = {}
        self._lengths = array("I")  # instances of each image
        self._labels = array("i")
        self._scores = array("d")
        self._flags = {metric: bytearray() for metric in metrics}
        self._truth_counts = np.zeros((num_things, AREAS), np.int64)

    def add(self, image: ImageDetections) -> None:
        """Add an image, none that is there already."""
        self.places[image.image_id] = len(self.places)
        self._lengths.append(len(image.labels))
        self._labels.frombytes(image.labels.astype(np.intc).tobytes())
        self._scores.frombytes(image.scores.astype(np.float64).tobytes())
        for metric, flags in self._flags.items():
            flags += image.flags[metric].tobytes()
        np.add.at(self._truth_counts, image.truth_labels, image.truth_counts)

    def merge(self, other: Detections) -> None:
        """Add the images of `other`, none of the same; its metrics and labels are equal."""
        self.places |= {image_id: len(self.places) + place for image_id, place in other.places.items()}
        self._lengths += other._lengths
        self._labels += other._labels
        self._scores += other._scores
        for metric, flags in self._flags.items():
            flags += other._flags[metric]
        self._truth_counts += other._truth_counts

    def average_precisions(self, metric: Metric) -> dict[str, float | None]:
        """Values in percent by the names of `FIGURES`; None where there is no object to be found.

        Between equal scores the ids of the images decide, ascending, numbers before texts.
        """
        precisions = np.full((THRESHOLDS, RECALLS, len(self._truth_counts), AREAS), -1.0)
        for label, detections in enumerate(self._by_label(metric)):
            precisions[:, :, label] = detections.precisions()
        figures: dict[str, float | None] = {}
        for name, (thresholds, area) in FIGURES.items():
            values = precisions[..., area][thresholds]
            found = values[values > -1]
            figures[name] = 100 * float(np.mean(found)) if found.size else None
        return figures

    def _by_label(self, metric: Metric) -> Iterator[_CategoryDetections]:
        """One for every label. The sorting is stable, so an image's instances keep their order."""
        ordered = sorted(self.places, key=lambda image_id: (isinstance(image_id, str), image_id))
        ranks = np.zeros(len(ordered), np.uint32)
        ranks[[self.places[image_id] for image_id in ordered]] = np.arange(len(ordered))
        labels, scores = np.asarray(self._labels), np.asarray(self._scores)
        flags = np.frombuffer(self._flags[metric], np.uint8).reshape(-1, FLAG_BYTES)
        order = np.lexsort([np.repeat(ranks, self._lengths), labels])
        limits = np.searchsorted(labels, np.arange(len(self._truth_counts) + 1), sorter=order)
        for start, end, found in zip(limits[:-1], limits[1:], self._truth_counts, strict=True):
            rows = order[start:end]
            yield _CategoryDetections(scores[rows], flags[rows], found)


@dataclass(frozen=True)
class _CategoryDetections:
    """The instances of one category in all images, one image after another.

    scores: (N,). flags: (N, 10) as in `ImageDetections`. truth_counts: (AREAS,) objects to be found.
    """

    scores: FloatArray
    flags: Flags
    truth_counts: IntArray

    def precisions(self) -> FloatArray:
        """(THRESHOLDS, RECALLS, AREAS) by pycocotools, -1 where there is no object.

        pycocotools takes the best 100 of every image and sorts them all by score. The former is done already, so all
        images may be given to it as one.
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
