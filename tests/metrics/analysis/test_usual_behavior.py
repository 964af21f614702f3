"""What is usual for a model, compared with values worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest

from panformer_cli.data.structures import PanopticMap
from panformer_cli.metrics.analysis.usual_behavior import UsualBehavior
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.metrics.matching import match_segments
from tests.metrics.test_quality import CAT, DOG, SKY, TABLE, panoptic

DOG_LABEL, CAT_LABEL, SKY_LABEL = (TABLE.label(category) for category in (DOG, CAT, SKY))


def row(text: str, categories: dict[int, int], scores: dict[int, float] | None = None) -> PanopticMap:
    """Return a map of one row, one digit per pixel."""
    drawn = panoptic([[int(digit) for digit in text]], categories)
    return PanopticMap(drawn.ids, tuple(replace(s, score=(scores or {}).get(s.id)) for s in drawn.segments))


def behavior(*pairs: tuple[PanopticMap, PanopticMap]) -> UsualBehavior:
    usual = UsualBehavior(TABLE)
    for prediction, truth in pairs:
        overlap = compare(prediction, truth)
        usual.add(overlap, match_segments(overlap, TABLE))
    return usual


def test_without_images_a_score_is_kept_and_nothing_is_found() -> None:
    usual = behavior()
    assert usual.confidence(DOG_LABEL, 0.7) == pytest.approx(0.7)
    assert usual.confidence(DOG_LABEL, 1.2) == 1
    assert [usual.confidence(DOG_LABEL, score) for score in (None, 0.0, float("nan"), -1.0)] == [0, 0, 0, 0]
    assert usual.found(DOG_LABEL, 10) == 0
    assert usual.outline(DOG_LABEL, 10) == (0, 0)


def test_confidence_is_corrected_per_class_and_tenth_of_the_score() -> None:
    right = row("5555", {5: DOG}, {5: 0.65}), row("1111", {1: DOG})
    wrong = row("5555", {5: DOG}, {5: 0.61}), row("1111", {1: CAT})
    usual = behavior(right, right, right, wrong)
    # 3 of 4 match, and their scores add up to 3 x 0.65 + 0.61 = 2.56.
    assert usual.confidence(DOG_LABEL, 0.62) == pytest.approx(0.62 * 13 / 12.56)
    assert usual.confidence(DOG_LABEL, 0.7) == pytest.approx(0.7)
    assert usual.confidence(CAT_LABEL, 0.62) == pytest.approx(0.62)


def test_confidence_is_at_most_one() -> None:
    right = row("5555", {5: DOG}, {5: 0.95}), row("1111", {1: DOG})
    assert behavior(*[right] * 50).confidence(DOG_LABEL, 0.99) == 1


def test_a_class_that_is_usually_wrong_has_a_low_confidence() -> None:
    wrong = row("5555", {5: DOG}, {5: 0.9}), row("1111", {1: SKY})
    assert behavior(*[wrong] * 30).confidence(DOG_LABEL, 0.9) == pytest.approx(0.9 * 10 / 37)


def test_predictions_on_void_count_only_on_void() -> None:
    on_void = row("5550", {5: DOG}, {5: 0.9}), row("0001", {1: SKY})
    usual = behavior(on_void)
    assert usual.confidence(DOG_LABEL, 0.9) == pytest.approx(0.9)
    assert usual.confidence(DOG_LABEL, 0.9, on_void=True) == pytest.approx(0.9 * 10 / 10.9)


def test_found_is_by_class_and_size_with_more_general_priors() -> None:
    found = row("5" * 16, {5: DOG}), row("1" * 16, {1: DOG})
    missed = row("0", {}), row("1", {1: DOG})
    cat = row("6" * 16, {6: CAT}), row("2" * 16, {2: CAT})
    usual = behavior(found, missed, cat)
    things = 2 / 3
    dogs = (1 + 10 * things) / 12
    assert usual.found(DOG_LABEL, 16) == pytest.approx((1 + 10 * dogs) / 11)
    assert usual.found(DOG_LABEL, 63) == usual.found(DOG_LABEL, 16) != usual.found(DOG_LABEL, 64)
    assert usual.found(DOG_LABEL, 1) == pytest.approx((0 + 10 * dogs) / 11)
    assert usual.found(DOG_LABEL, 1000) == pytest.approx(dogs)
    assert usual.found(CAT_LABEL, 1000) == pytest.approx((1 + 10 * things) / 11)
    assert usual.found(SKY_LABEL, 16) == 0  # there is no stuff


def test_outlines_have_the_mean_and_deviation_of_all_pairs_if_those_are_of_one_class_and_size() -> None:
    perfect = row("5" * 10, {5: DOG}), row("1" * 10, {1: DOG})
    poor = row("5" * 6 + "0" * 4, {5: DOG}), row("1" * 10, {1: DOG})  # IoU 0.6
    mean, deviation = behavior(*[perfect] * 10, poor).outline(DOG_LABEL, 10)
    assert mean == pytest.approx(10.6 / 11)
    assert deviation == pytest.approx(float(np.std([1.0] * 10 + [0.6])))
    assert deviation == pytest.approx((1 - 0.6) * sqrt(10) / 11)
