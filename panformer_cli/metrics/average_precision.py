"""From matched instances to average precision, by pycocotools.

Letters for shapes: N instances, C categories of an image's ground truth.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pycocotools.cocoeval import COCOeval

from panformer_cli.metrics.records import FloatArray, IntArray

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

Flags = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ImageDetections:
    """How the instances of an image match: all that AP needs, some 40 bytes an instance.

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
                metric: np.frombuffer(b64decode(text), np.uint8).reshape(count, 2 * AREAS * THRESHOLDS // 8)
                for metric, text in content["flags"].items()
            },
            truth_labels=np.array(content["truth_labels"], np.int64),
            truth_counts=np.array(content["truth_counts"], np.int64).reshape(-1, AREAS),
        )


def pack_flags(matched: npt.NDArray[np.bool_], ignored: npt.NDArray[np.bool_]) -> Flags:
    """(N, 10) uint8 for `ImageDetections.flags`, of two (AREAS, THRESHOLDS, N) bool."""
    flags = np.stack([matched, ignored]).reshape(2 * AREAS * THRESHOLDS, -1 if matched.size else 0)
    return np.packbits(flags.T, axis=1)


def average_precisions(images: Sequence[ImageDetections], metric: Metric, num_things: int) -> dict[str, float | None]:
    """Values in percent by the names of `FIGURES`; None where there is no object to be found.

    images: matched by `metric`. Their order decides between equal scores.
    """
    precisions = np.full((THRESHOLDS, RECALLS, num_things, AREAS), -1.0)
    if images:
        for label, detections in enumerate(_by_label(images, metric, num_things)):
            precisions[:, :, label] = detections.precisions()
    figures: dict[str, float | None] = {}
    for name, (thresholds, area) in FIGURES.items():
        values = precisions[..., area][thresholds]
        found = values[values > -1]
        figures[name] = 100 * float(np.mean(found)) if found.size else None
    return figures


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


def _by_label(images: Sequence[ImageDetections], metric: Metric, num_things: int) -> list[_CategoryDetections]:
    """One for every label. The sorting is stable, so images keep their order."""
    labels = np.concatenate([image.labels for image in images])
    order = np.argsort(labels, kind="stable")
    scores = np.concatenate([image.scores for image in images])[order]
    flags = np.concatenate([image.flags[metric] for image in images])[order]
    limits = np.searchsorted(labels[order], np.arange(num_things + 1))
    counts = np.zeros((num_things, AREAS), np.int64)
    for image in images:
        np.add.at(counts, image.truth_labels, image.truth_counts)
    return [
        _CategoryDetections(scores[start:end], flags[start:end], found)
        for start, end, found in zip(limits[:-1], limits[1:], counts, strict=True)
    ]
