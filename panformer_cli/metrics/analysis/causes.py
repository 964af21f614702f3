"""Causes of errors: one cause for each missed and each wrong segment of an image.

docs/evaluation.md defines the causes and their precedence. Crowds in the ground truth and ignored predictions are not
considered. Letters for shapes: T ground truth segments, P predicted segments of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import CategoryTable
from panformer_cli.metrics.image_overlap import ImageOverlap, IntArray
from panformer_cli.metrics.matching import Matching

BoolArray = npt.NDArray[np.bool_]

NEAR = 10
"""Segments of one category are partners above an IoU of 1 / NEAR; smaller overlaps may be chance (as in TIDE)."""


class Cause(IntEnum):
    """Causes of lost PQ points, in the order of the tables."""

    MISSED = 0
    FALSE = 1
    WRONG_CLASS = 2
    SPLIT = 3
    MERGED = 4
    POOR_MASK = 5
    STUFF_LEAKING = 6

    @property
    def key(self) -> str:
        """Name in JSON, such as `wrong_class`."""
        return self.name.lower()


PRECEDENCE = (
    Cause.WRONG_CLASS,
    Cause.SPLIT,
    Cause.MERGED,
    Cause.STUFF_LEAKING,  # with a partner of its category
    Cause.POOR_MASK,
    Cause.STUFF_LEAKING,  # over segments of another category
)
"""The first condition that holds is the cause; if none holds, a segment is missed or false."""


@dataclass(frozen=True)
class Causes:
    """The causes of the unmatched segments of one image, as values of `Cause`.

    Attributes:
        missed: for `Matching.missed`, in its order.
        wrong: for `Matching.wrong`, in its order.
        confused: (n, 2) pairs of a ground truth segment and a prediction of another class at the same location.
    """

    missed: IntArray
    wrong: IntArray
    confused: IntArray


def find_causes(record: ImageOverlap, matching: Matching, categories: CategoryTable) -> Causes:
    """Return one cause for each missed and each wrong segment, based on the segments that overlap it."""
    relations = _Relations.of(record, matching)
    confused = relations.mutual & ~relations.same & relations.unmatched
    truth_is_stuff = matching.truth_labels >= categories.num_things
    is_stuff = matching.labels >= categories.num_things
    spilled = relations.partners & ~relations.in_truth & is_stuff  # most of the stuff is outside its ground truth
    beneath_stuff = _any(relations.in_prediction & is_stuff, axis=1) & truth_is_stuff
    things_beneath = record.shared[~truth_is_stuff].sum(axis=0)
    over_things = is_stuff & (2 * things_beneath > pixels_off_void(record))
    missed = _first(
        _any(confused, axis=1),
        relations.pieces >= 2,
        relations.merged,
        _any(spilled, axis=1),
        _any(relations.partners, axis=1),
        beneath_stuff,
        otherwise=Cause.MISSED,
    )
    wrong = _first(
        _any(confused, axis=0),
        relations.split,
        relations.swallowed >= 2,
        _any(spilled, axis=0),
        _any(relations.partners, axis=0),
        over_things,
        otherwise=Cause.FALSE,
    )
    return Causes(missed[matching.missed], wrong[matching.wrong], np.argwhere(confused))


@dataclass(frozen=True)
class _Relations:
    """Spatial relations of the segments of an image, without crowds and ignored predictions.

    Attributes:
        in_truth: (T, P) more than half of the prediction, excluding void, is in the ground truth segment.
        in_prediction: (T, P) more than half of the ground truth segment is in the prediction.
        same: (T, P) the categories agree.
        unmatched: (T, P) one is missed and the other wrong.
        partners: (T, P) unmatched, of one category, and one mostly in the other or with an IoU above 1 / NEAR.
        matched_truth: (T,) ground truth segments with a match.
        matched: (P,) predictions with a match.
    """

    in_truth: BoolArray
    in_prediction: BoolArray
    same: BoolArray
    unmatched: BoolArray
    partners: BoolArray
    matched_truth: BoolArray
    matched: BoolArray

    @classmethod
    def of(cls, record: ImageOverlap, matching: Matching) -> _Relations:
        matched_truth, matched = _mask(matching.rows, record.truth), _mask(matching.columns, record.predictions)
        missed, wrong = _mask(matching.missed, record.truth), _mask(matching.wrong, record.predictions)
        counted = (matched_truth | missed)[:, None] & (matched | wrong)
        shared = record.shared * counted
        pixels, truth_pixels = pixels_off_void(record), record.truth_pixels[:, None]
        in_truth, in_prediction = 2 * shared > pixels, 2 * shared > truth_pixels
        near = in_truth | in_prediction | (NEAR * shared > pixels + truth_pixels - shared)
        same = matching.truth_labels[:, None] == matching.labels
        unmatched = missed[:, None] & wrong
        return cls(in_truth, in_prediction, same, unmatched, near & same & unmatched, matched_truth, matched)

    @property
    def mutual(self) -> BoolArray:
        """(T, P) more than half of each is in the other, so a segment is in at most one such pair."""
        return self.in_truth & self.in_prediction

    @property
    def pieces(self) -> IntArray:
        """(T,) number of predictions of the same category mostly in a ground truth segment."""
        counts: IntArray = (self.in_truth & self.same).sum(axis=1)
        return counts

    @property
    def swallowed(self) -> IntArray:
        """(P,) number of ground truth segments of the same category mostly in a prediction."""
        counts: IntArray = (self.in_prediction & self.same).sum(axis=0)
        return counts

    @property
    def split(self) -> BoolArray:
        """(P,) one of several pieces of a ground truth segment, or a piece of one that has another match."""
        several: BoolArray = self.matched_truth | (self.pieces >= 2)
        pieces: BoolArray = self.in_truth & self.same & several[:, None]
        return _any(pieces, axis=0)

    @property
    def merged(self) -> BoolArray:
        """(T,) one of several ground truth segments in a prediction, or in one that has another match."""
        several: BoolArray = self.matched | (self.swallowed >= 2)
        swallowed: BoolArray = self.in_prediction & self.same & several
        return _any(swallowed, axis=1)


def _first(*conditions: BoolArray, otherwise: Cause) -> IntArray:
    causes: IntArray = np.select(list(conditions), list(PRECEDENCE), otherwise).astype(np.int64)
    return causes


def pixels_off_void(record: ImageOverlap) -> IntArray:
    """Return the pixels of the predictions where the ground truth is not void, (P,), as in the union of PQ."""
    return record.predicted_pixels - record.predicted_on_void


def _mask(indices: IntArray, segments: tuple[object, ...]) -> BoolArray:
    mask = np.zeros(len(segments), dtype=bool)
    mask[indices] = True
    return mask


def _any(table: BoolArray, axis: int) -> BoolArray:
    """Return `table.any`, typed as an array."""
    found: BoolArray = np.asarray(table.any(axis=axis))
    return found
