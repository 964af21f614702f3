"""What is usual for a model: how often its predictions are right, what it finds, and how well its outlines agree.

An annotation is suspicious only if the model contradicts it more clearly than the model errs anyway, so everything here
is measured per class, on the evaluated images. docs/evaluation.md, "Label errors", has the formulas.
Letters for shapes: L labels, K quantities, T ground truth segments, P predicted segments of an image.
"""

from __future__ import annotations

from math import isfinite, sqrt

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.metrics.analysis.calibration import BINS
from panformer_cli.metrics.image_overlap import FloatArray, ImageOverlap
from panformer_cli.metrics.matching import Matching

PRIOR = 10
"""Weight of a prior, in segments. Classes with fewer segments are described mostly by the prior."""

LABEL_ERROR_RATE = 0.033
"""Usual fraction of wrong labels: the mean of ten test sets in Northcutt et al., "Pervasive Label Errors", 2021."""

_STEPS = 32
"""Size steps; the last one begins at 2^31 pixels of side length."""


class UsualBehavior:
    """Accumulates the behavior of a model, image by image."""

    def __init__(self, categories: CategoryTable) -> None:
        groups = [range(categories.num_things), range(categories.num_things, len(categories))]
        self._matched = np.zeros((len(categories), BINS))
        self._scores = np.zeros((len(categories), BINS))
        self._scores_on_void = np.zeros((len(categories), BINS))
        self._found = _MeansBySize(groups, 1)
        self._iou = _MeansBySize(groups, 2)

    def add(self, record: ImageOverlap, matching: Matching) -> None:
        """Add one image; `matching` belongs to `record`."""
        for column in matching.columns.tolist():
            label, score = int(matching.labels[column]), clipped_score(record.predictions[column].score)
            self._matched[label, _bin(score)] += score > 0
        for columns in (matching.columns, matching.wrong):
            self._add_scores(self._scores, record, matching, columns.tolist())
        on_void = [column for column in matching.ignored.tolist() if is_on_void(record, column)]
        self._add_scores(self._scores_on_void, record, matching, on_void)
        areas, ious = record.truth_pixels, outline_ious(record, matching)
        for row, column in zip(matching.rows.tolist(), matching.columns.tolist(), strict=True):
            label, area, iou = int(matching.truth_labels[row]), int(areas[row]), float(ious[row, column])
            self._found.add(label, area, [1.0])
            self._iou.add(label, area, [iou, iou**2])
        for row in matching.missed.tolist():
            self._found.add(int(matching.truth_labels[row]), int(areas[row]), [0.0])

    def confidence(self, label: int, score: float | None, on_void: bool = False) -> float:
        """Return the probability that a prediction of this class and score matches a segment, 0..1.

        It is the score, multiplied by the ratio of matches to the sum of scores, of the predictions of the class whose
        score is in the same tenth; both have `PRIOR` added, so that a rare class keeps its score.

        Args:
            label: class of the prediction.
            score: its score; without one, the confidence is 0.
            on_void: also count predictions on void as unmatched. Use it for predictions on void, which a data set may
                leave unlabeled on purpose.
        """
        score = clipped_score(score)
        position = label, _bin(score)
        claimed = self._scores[position] + (self._scores_on_void[position] if on_void else 0.0)
        return float(min(1.0, score * (self._matched[position] + PRIOR) / (claimed + PRIOR)))

    def found(self, label: int, area: int) -> float:
        """Return the fraction of the ground truth segments of this class and size that the model finds, 0..1."""
        return float(self._found.mean(label, area)[0])

    def outline(self, label: int, area: int) -> tuple[float, float]:
        """Return mean and standard deviation of the `outline_ious` of the matched pairs of this class and size."""
        mean, square = self._iou.mean(label, area).tolist()
        return mean, sqrt(max(0.0, square - mean**2))

    def rarity(self, label: int, contradictions: int) -> float:
        """Return how rarely the model contradicts annotations of a class in one way, 0..1.

        It is r / (r + rate), where r is `LABEL_ERROR_RATE`, and the rate is the number of these contradictions divided
        by the number of matches (with `PRIOR` added): 0.5 for contradictions that are as frequent as label errors are.
        """
        rate = contradictions / (float(self._matched[label].sum()) + PRIOR)
        return LABEL_ERROR_RATE / (LABEL_ERROR_RATE + rate)

    @staticmethod
    def _add_scores(sums: FloatArray, record: ImageOverlap, matching: Matching, columns: list[int]) -> None:
        for column in columns:
            score = clipped_score(record.predictions[column].score)
            sums[int(matching.labels[column]), _bin(score)] += score


class _MeansBySize:
    """Means of K quantities by class and size, where few segments are supplemented by a more general mean.

    Sizes are steps of a factor of two in side length. The mean of a class and size has `PRIOR` more segments with the
    mean of the class, which in turn has `PRIOR` more segments with the mean of all things or all stuff.
    """

    def __init__(self, groups: list[range], quantities: int) -> None:
        self._groups = groups
        self._sums = np.zeros((sum(map(len, groups)), _STEPS, 1 + quantities))  # first the number of segments

    def add(self, label: int, area: int, values: list[float]) -> None:
        self._sums[label, _step(area)] += [1.0, *values]

    def mean(self, label: int, area: int) -> FloatArray:
        """Return the means, (K,); 0 if nothing was added."""
        group = next(group for group in self._groups if label in group)
        everything = self._sums[group.start : group.stop].sum(axis=(0, 1))
        mean: FloatArray = everything[1:] / max(everything[0], 1.0)
        for sums in (self._sums[label].sum(axis=0), self._sums[label, _step(area)]):
            mean = (sums[1:] + PRIOR * mean) / (sums[0] + PRIOR)
        return mean


def outline_ious(record: ImageOverlap, matching: Matching) -> FloatArray:
    """Return the IoUs (T, P) of all pairs, without the pixels that are explained by other segments.

    A segment whose neighbor is missed or false has a low IoU, although its own outline is good. Pixels that a segment
    shares with an unmatched segment or a crowd are therefore in no union, like predicted pixels on void.
    """
    matched_rows, matched_columns = np.zeros(len(record.truth), np.bool_), np.zeros(len(record.predictions), np.bool_)
    matched_rows[matching.rows], matched_columns[matching.columns] = True, True
    shared = record.shared
    truth = record.truth_pixels - (shared * ~matched_columns).sum(axis=1)
    predicted = record.predicted_pixels - record.predicted_on_void - (shared * ~matched_rows[:, None]).sum(axis=0)
    own = shared * (2 - matched_rows[:, None].astype(np.int64) - matched_columns)  # subtracted above, but in the pair
    union = truth[:, None] + predicted + own - shared
    ious: FloatArray = shared / np.maximum(union, 1)
    return ious


def clipped_score(score: float | None) -> float:
    """Return a score in 0..1: mask quality has no upper bound, and some predictions have no score."""
    return min(score, 1.0) if score is not None and isfinite(score) and score > 0 else 0.0


def is_on_void(record: ImageOverlap, column: int) -> bool:
    """Return whether more than half of a prediction is on void in the ground truth."""
    return bool(2 * record.predicted_on_void[column] > record.predicted_pixels[column])


def _bin(score: float) -> int:
    return min(int(score * BINS), BINS - 1)


def _step(area: int) -> int:
    """Return the size step of an area in pixels.

    >>> [_step(area) for area in (1, 3, 4, 15, 16)]
    [0, 0, 1, 1, 2]
    """
    return min(max(area.bit_length() - 1, 0) // 2, _STEPS - 1)
