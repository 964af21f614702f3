"""Find ground truth segments that are probably wrong, because a model that is usually right contradicts them.

docs/evaluation.md, "Label errors", defines the kinds of errors and the score. The idea is that of confident learning
(Northcutt et al., JAIR 2021): a contradiction counts by how reliable the model is for the class. ObjectLab (Tkachenko
et al., 2023) does this for boxes. Letters for shapes: T ground truth segments, P predicted segments of an image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import ceil, floor
from typing import Any

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import Segment
from panformer_cli.metrics.analysis.causes import NEAR, BoolArray, pixels_off_void
from panformer_cli.metrics.analysis.usual_behavior import UsualBehavior, is_on_void, outline_ious
from panformer_cli.metrics.image_overlap import FloatArray, ImageOverlap
from panformer_cli.metrics.matching import MATCH, Matching
from panformer_cli.wording import listing

CERTAIN = 0.5
"""Minimum confidence and clarity: the model is more often right than wrong, and more pixels disagree than agree."""

DEVIATIONS = 2.0
"""Minimum distance of an IoU from its mean for a poor outline, in standard deviations."""


class Kind(Enum):
    """Kinds of label errors; the value is the name in JSON."""

    MISSING_ANNOTATION = "missing_annotation"
    WRONG_CLASS = "wrong_class"
    MERGED_INSTANCES = "merged_instances"
    SPLIT_INSTANCE = "split_instance"
    POOR_OUTLINE = "poor_outline"
    SURPLUS_LABEL = "surplus_label"

    @property
    def title(self) -> str:
        """The kind in words, such as `Wrong class`."""
        return self.value.replace("_", " ").capitalize()


@dataclass(frozen=True)
class Suspect:
    """A probable label error.

    Attributes:
        image_id: dataset id of the image.
        file_name: of the image.
        kind: kind of the error.
        confidence: how reliable the model is here, 0.5..1.
        clarity: how clearly its segments contradict the annotation, 0.5..1.
        rarity: how rarely it contradicts annotations of the class in this way, 0..1; known after all images.
        truth: the ground truth segments that are wrong, or that cover a missing one.
        predictions: the predicted segments that contradict them.
        box: (x, y, width, height) of the region to look at, in pixels.
        reason: a sentence that explains the contradiction.
    """

    image_id: int | str
    file_name: str
    kind: Kind
    confidence: float
    clarity: float
    truth: tuple[Segment, ...]
    predictions: tuple[Segment, ...]
    box: tuple[int, int, int, int]
    reason: str
    rarity: float = 1.0

    @property
    def score(self) -> float:
        """Confidence x clarity x rarity, 0..1."""
        return self.confidence * self.clarity * self.rarity

    @property
    def category_id(self) -> int:
        """The class that the model sees or, for a surplus label, does not see."""
        return (self.truth if self.kind is Kind.SURPLUS_LABEL else self.predictions)[0].category_id

    def to_json(self) -> dict[str, Any]:
        """Return a row of label_errors.json, as described in docs/formats.md."""
        return {
            "image_id": self.image_id,
            "file_name": self.file_name,
            "kind": self.kind.value,
            "score": self.score,
            "confidence": self.confidence,
            "clarity": self.clarity,
            "rarity": self.rarity,
            "truth": [{"id": s.id, "category_id": s.category_id} for s in self.truth],
            "predictions": [{"id": s.id, "category_id": s.category_id, "score": s.score} for s in self.predictions],
            "box": list(self.box),
            "reason": self.reason,
        }


def ranked(suspects: Iterable[Suspect], usual: UsualBehavior, categories: CategoryTable) -> list[Suspect]:
    """Return the suspects of all images with their rarity, in descending score.

    Equal ones are in the order of file names and segments.

    Args:
        suspects: the suspects of all images.
        usual: the behavior of the model on all images.
        categories: the category table.
    """
    found = list(suspects)
    counts = Counter((suspect.kind, suspect.category_id) for suspect in found)
    rarities = {
        (kind, category_id): usual.rarity(categories.label(category_id), count)
        for (kind, category_id), count in counts.items()
    }
    return sorted((replace(s, rarity=rarities[s.kind, s.category_id]) for s in found), key=_rank)


def _rank(suspect: Suspect) -> tuple[Any, ...]:
    ids = [[segment.id for segment in segments] for segments in (suspect.truth, suspect.predictions)]
    return (-suspect.score, suspect.file_name, str(suspect.image_id), suspect.kind.value, *ids)


def find_label_errors(
    record: ImageOverlap, matching: Matching, usual: UsualBehavior, categories: CategoryTable
) -> list[Suspect]:
    """Return the probable label errors of one image; each segment that is wrong is in one of them.

    Args:
        record: the overlap of the image.
        matching: its matching.
        usual: the behavior of the model on all images.
        categories: the category table.
    """
    return _Image(record, matching, usual, categories).suspects()


class _Image:
    """The segments of one image, how they overlap, and which of them a contradiction has already explained.

    Attributes:
        confidence: (P,) confidence of the predictions.
        certain: (P,) predictions that can contradict an annotation.
        on_void: (P,) predictions of which more than half is on void.
        same: (T, P) the categories agree; False for crowds.
        other: (T, P) the categories differ.
        iou: (T, P) IoU, without predicted void in the union.
        open_truth: (T,) segments that no contradiction has explained yet; never crowds.
        open_predictions: (P,) predictions that no contradiction has explained yet.
    """

    def __init__(
        self, record: ImageOverlap, matching: Matching, usual: UsualBehavior, categories: CategoryTable
    ) -> None:
        self.record, self.matching, self.usual, self.categories = record, matching, usual, categories
        self.shared, self.truth_pixels, self.pixels = record.shared, record.truth_pixels, pixels_off_void(record)
        labels, scores = matching.labels.tolist(), [segment.score for segment in record.predictions]
        on_void = [is_on_void(record, column) for column in range(len(labels))]
        self.on_void: BoolArray = np.array(on_void, np.bool_)
        self.confidence: FloatArray = np.array(list(map(usual.confidence, labels, scores, on_void)), np.float64)
        self.certain: BoolArray = self.confidence >= CERTAIN
        self.open_truth: BoolArray = np.array([not segment.is_crowd for segment in record.truth], np.bool_)
        self.open_predictions: BoolArray = np.ones(len(labels), np.bool_)
        self.other: BoolArray = matching.truth_labels[:, None] != matching.labels
        self.same: BoolArray = ~self.other & self.open_truth[:, None]
        union = self.truth_pixels[:, None] + self.pixels - self.shared
        self.iou: FloatArray = self.shared / np.maximum(union, 1)
        self.truth_is_stuff: BoolArray = matching.truth_labels >= categories.num_things
        self.is_stuff: BoolArray = matching.labels >= categories.num_things

    def suspects(self) -> list[Suspect]:
        """Return the contradictions of the image.

        A segment is in one of them at most, so those that explain more are first.
        """
        return [
            *self._wrong_classes(),
            *self._merged_instances(),
            *self._split_instances(),
            *self._poor_outlines(self._partners()),
            *self._missing_annotations(),
            *self._surplus_labels(),
            *self._poor_outlines(zip(self.matching.rows.tolist(), self.matching.columns.tolist(), strict=True)),
        ]

    def _wrong_classes(self) -> Iterator[Suspect]:
        """A segment that would match a prediction if their classes agreed; the IoU ignores void, so not one on void."""
        candidates = (self.iou > MATCH) & self.other & self.certain & ~self.on_void & self.open_truth[:, None]
        for row, column in np.argwhere(candidates).tolist():
            iou = float(self.iou[row, column])
            yield from self._suspect(
                Kind.WRONG_CLASS,
                self.confidence[column],
                iou,
                [row],
                [column],
                f"Annotated as {self._truth_name(row)}, but the model sees {self._name(column)} at the same location "
                f"(IoU {iou:.2f}).",
            )

    def _merged_instances(self) -> Iterator[Suspect]:
        """A thing that covers several predictions of its class."""
        inside = (2 * self.shared > self.pixels) & self.same & self.certain & ~self.is_stuff
        for row in range(len(self.record.truth)):
            columns = np.flatnonzero(inside[row] & self.open_predictions & self.open_truth[row])
            if len(columns) < 2:
                continue
            covered = float(self.shared[row, columns].sum() / self.truth_pixels[row])
            yield from self._suspect(
                Kind.MERGED_INSTANCES,
                _second(self.confidence[columns]),
                covered,
                [row],
                columns.tolist(),
                f"One {self._truth_name(row)} is annotated where the model sees {len(columns)}, which cover "
                f"{100 * covered:.0f} % of it.",
            )

    def _split_instances(self) -> Iterator[Suspect]:
        """A predicted thing that covers several ground truth segments of its class."""
        inside = (2 * self.shared > self.truth_pixels[:, None]) & self.same & self.certain & ~self.is_stuff
        for column in range(len(self.record.predictions)):
            rows = np.flatnonzero(inside[:, column] & self.open_truth & self.open_predictions[column])
            if len(rows) < 2:
                continue
            covered = float(self.shared[rows, column].sum() / self.pixels[column])
            yield from self._suspect(
                Kind.SPLIT_INSTANCE,
                self.confidence[column] * _second([self._found(row) for row in rows.tolist()]),
                covered,
                rows.tolist(),
                [column],
                f"{len(rows)} {self._name(column)} segments are annotated where the model sees one, of which they "
                f"cover {100 * covered:.0f} %.",
            )

    def _partners(self) -> list[tuple[int, int]]:
        """Return pairs of one class that overlap too little to match, those with the largest IoU first."""
        missed, matched = np.zeros(len(self.open_truth), np.bool_), np.zeros(len(self.open_predictions), np.bool_)
        missed[self.matching.missed], matched[self.matching.columns] = True, True
        pairs = np.argwhere(self.same & (NEAR * self.iou > 1) & missed[:, None] & ~matched).tolist()
        return sorted(((row, column) for row, column in pairs), key=lambda pair: -self.iou[pair])

    def _poor_outlines(self, pairs: Iterable[tuple[int, int]]) -> Iterator[Suspect]:
        """A pair whose IoU is unusually low for its class and size."""
        ious = outline_ious(self.record, self.matching)
        for row, column in pairs:
            iou = float(ious[row, column])
            mean, deviation = self.usual.outline(int(self.matching.truth_labels[row]), int(self.truth_pixels[row]))
            distance = mean - iou
            if not self.certain[column] or distance <= 0 or distance < DEVIATIONS * deviation:
                continue
            unusual = 1 - (deviation / distance) ** 2
            yield from self._suspect(
                Kind.POOR_OUTLINE,
                self.confidence[column],
                unusual * distance / max(distance, mean - MATCH),
                [row],
                [column],
                f"The outline agrees with the prediction only to IoU {iou:.2f}; {mean:.2f} is usual for "
                f"{self._truth_name(row)} segments of this size.",
            )

    def _missing_annotations(self) -> Iterator[Suspect]:
        """A prediction that matches nothing, where the ground truth is void or other stuff."""
        background = self.shared * (self.truth_is_stuff[:, None] & self.other)
        free = background.sum(axis=0) + self.record.predicted_on_void
        for column in sorted({*self.matching.wrong.tolist(), *self.matching.ignored.tolist()}):
            if not (self.certain[column] and self.open_predictions[column]):
                continue
            beneath = np.flatnonzero(NEAR * background[:, column] > free[column]).tolist()
            yield from self._suspect(
                Kind.MISSING_ANNOTATION,
                self.confidence[column],
                free[column] / self.record.predicted_pixels[column],
                beneath,
                [column],
                f"The model sees {self._name(column)} where the annotation has "
                f"{listing(map(self._truth_name, beneath)) or 'nothing'}.",
            )

    def _surplus_labels(self) -> Iterator[Suspect]:
        """A missed segment where the model sees other stuff."""
        seen = self.shared * (self.is_stuff & self.certain & self.other)
        for row in self.matching.missed.tolist():
            columns = np.flatnonzero(NEAR * seen[row] > self.truth_pixels[row]).tolist()
            pixels = seen[row, columns]
            if not columns:
                continue
            found = self._found(row)
            yield from self._suspect(
                Kind.SURPLUS_LABEL,
                found * float(np.average(self.confidence[columns], weights=pixels)),
                pixels.sum() / self.truth_pixels[row],
                [row],
                columns,
                f"The model sees {listing(map(self._name, columns))} here, although it finds {100 * found:.0f} % of "
                f"the {self._truth_name(row)} segments of this size.",
            )

    def _suspect(
        self, kind: Kind, confidence: float, clarity: float, rows: list[int], columns: list[int], reason: str
    ) -> Iterator[Suspect]:
        """Yield a suspect if it is certain and its segments are not explained yet, and mark them as explained.

        What covers a missing annotation, and what the model sees in place of a surplus label, can be right.
        """
        wrong = [] if kind is Kind.MISSING_ANNOTATION else rows
        contradicting = [] if kind is Kind.SURPLUS_LABEL else columns
        is_open = self.open_truth[wrong].all() and self.open_predictions[contradicting].all()
        if min(confidence, clarity) < CERTAIN or not is_open:
            return
        self.open_truth[wrong], self.open_predictions[contradicting] = False, False
        truth, predictions = self.record.truth, self.record.predictions
        yield Suspect(
            self.record.image_id,
            self.record.file_name,
            kind,
            float(confidence),
            float(clarity),
            tuple(truth[row] for row in rows),
            tuple(predictions[column] for column in columns),
            _union([*(truth[row].bbox for row in wrong), *(predictions[column].bbox for column in contradicting)]),
            reason,
        )

    def _found(self, row: int) -> float:
        """Return how often the model finds ground truth segments like this one, 0..1."""
        return self.usual.found(int(self.matching.truth_labels[row]), int(self.truth_pixels[row]))

    def _truth_name(self, row: int) -> str:
        return self.categories.by_id(self.record.truth[row].category_id).name

    def _name(self, column: int) -> str:
        return self.categories.by_id(self.record.predictions[column].category_id).name


def _second(values: Iterable[float]) -> float:
    """Return the second largest value: how certain it is that there are two."""
    return float(sorted(values)[-2])


def _union(boxes: Sequence[tuple[float, float, float, float]]) -> tuple[int, int, int, int]:
    """Return the smallest box (x, y, width, height) in whole pixels that contains all boxes."""
    left, top = floor(min(box[0] for box in boxes)), floor(min(box[1] for box in boxes))
    right, bottom = ceil(max(box[0] + box[2] for box in boxes)), ceil(max(box[1] + box[3] for box in boxes))
    return left, top, right - left, bottom - top
