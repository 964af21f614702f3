"""Causes of unmatched segments, compared with hand-worked cases and with the rules in plain sets of pixels."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings

from panformer_cli.data.structures import PanopticMap
from panformer_cli.metrics.analysis.causes import Cause, find_causes
from panformer_cli.metrics.image_overlap import ImageOverlap, compare
from panformer_cli.metrics.matching import Matching, match_segments
from tests.metrics.test_quality import CAT, DOG, SEA, SKY, TABLE, Pair, drawn_pairs, panoptic, seeded_pairs

Named = dict[int, str]


def causes_of(prediction: PanopticMap, truth: PanopticMap) -> tuple[Named, Named]:
    """Return the causes by id: of the missed segments, and of the wrong ones."""
    record = compare(prediction, truth)
    matching = match_segments(record, TABLE)
    causes = find_causes(record, matching, TABLE)
    missed = zip(matching.missed.tolist(), causes.missed.tolist(), strict=True)
    wrong = zip(matching.wrong.tolist(), causes.wrong.tolist(), strict=True)
    return (
        {record.truth[row].id: Cause(cause).key for row, cause in missed},
        {record.predictions[column].id: Cause(cause).key for column, cause in wrong},
    )


def row(text: str, categories: dict[int, int], crowd: tuple[int, ...] = ()) -> PanopticMap:
    """Return a map of one row, one digit per pixel."""
    return panoptic([[int(digit) for digit in text]], categories, crowd)


# --- each cause; ids 1 to 4 are ground truth, 5 to 8 predictions


def test_missed() -> None:
    nothing = row("0000", {})
    assert causes_of(nothing, row("1111", {1: DOG})) == ({1: "missed"}, {})
    assert causes_of(nothing, row("1111", {1: SKY})) == ({1: "missed"}, {})


def test_a_thing_under_matched_stuff_is_missed() -> None:
    assert causes_of(row("55555555", {5: SKY}), row("11111122", {1: SKY, 2: DOG})) == ({2: "missed"}, {})


def test_false() -> None:
    truth = row("11111111", {1: SKY})
    assert causes_of(row("55555566", {5: SKY, 6: DOG}), truth) == ({}, {6: "false"})
    assert causes_of(row("55555566", {5: SKY, 6: SEA}), truth) == ({}, {6: "false"})


def test_a_small_overlap_is_ignored() -> None:
    truth = row("1111111111222233344", {1: DOG, 2: CAT, 3: SEA, 4: SKY})
    others = {2: "missed", 3: "missed", 4: "missed"}
    guess = row("0000000005555555555", {5: DOG})  # IoU 1/19
    assert causes_of(guess, truth) == ({1: "missed", **others}, {5: "false"})
    nearer = row("0000000055555555550", {5: DOG})  # IoU 2/18
    assert causes_of(nearer, truth) == ({1: "poor_mask", **others}, {5: "poor_mask"})


def test_wrong_class() -> None:
    truth = row("1111", {1: DOG})
    assert causes_of(row("5555", {5: CAT}), truth) == ({1: "wrong_class"}, {5: "wrong_class"})
    assert causes_of(row("5555", {5: SKY}), truth) == ({1: "wrong_class"}, {5: "wrong_class"})


def test_wrong_class_needs_more_than_half_of_both() -> None:
    truth = row("1111122222", {1: DOG, 2: SKY})
    assert causes_of(row("0055566000", {5: CAT, 6: SEA}), truth)[0] == {1: "wrong_class", 2: "missed"}
    assert causes_of(row("0055555000", {5: CAT}), truth)[0] == {1: "wrong_class", 2: "missed"}  # IoU 3/7
    assert causes_of(row("0005500000", {5: CAT}), truth) == ({1: "missed", 2: "missed"}, {5: "false"})


def test_split() -> None:
    truth = row("11111111", {1: DOG})
    assert causes_of(row("55556666", {5: DOG, 6: DOG}), truth) == ({1: "split"}, {5: "split", 6: "split"})
    assert causes_of(row("55555566", {5: DOG, 6: DOG}), truth) == ({}, {6: "split"})  # 5 matches


def test_merged() -> None:
    guess = row("55555555", {5: DOG})
    truth = row("11112222", {1: DOG, 2: DOG})
    assert causes_of(guess, truth) == ({1: "merged", 2: "merged"}, {5: "merged"})
    assert causes_of(guess, row("11111122", {1: DOG, 2: DOG})) == ({2: "merged"}, {})  # 1 matches


def test_poor_mask_too_small_and_too_large() -> None:
    truth = row("1111111111", {1: DOG})
    assert causes_of(row("5550000000", {5: DOG}), truth) == ({1: "poor_mask"}, {5: "poor_mask"})
    assert causes_of(row("5550000000", {5: SKY}), row("1111111111", {1: SKY})) == (
        {1: "poor_mask"},
        {5: "poor_mask"},
    )
    small = row("1112222222", {1: DOG, 2: SKY})
    assert causes_of(row("5555555555", {5: DOG}), small) == ({1: "poor_mask", 2: "wrong_class"}, {5: "wrong_class"})
    assert causes_of(row("5555550000", {5: DOG}), small) == ({1: "poor_mask", 2: "missed"}, {5: "poor_mask"})


def test_stuff_leaks_off_its_ground_truth() -> None:
    truth = row("111222333", {1: SKY, 2: DOG, 3: CAT})
    guess = row("555555500", {5: SKY})  # 3 of its 7 pixels are sky
    assert causes_of(guess, truth) == ({1: "stuff_leaking", 2: "missed", 3: "missed"}, {5: "stuff_leaking"})


def test_stuff_leaks_over_things_and_over_other_stuff() -> None:
    things = row("111222", {1: DOG, 2: CAT})
    assert causes_of(row("555550", {5: SKY}), things)[1] == {5: "wrong_class"}
    over = row("111222333", {1: DOG, 2: CAT, 3: DOG})
    assert causes_of(row("555555550", {5: SKY}), over) == (
        {1: "missed", 2: "missed", 3: "missed"},
        {5: "stuff_leaking"},
    )
    stuff = row("1111111122", {1: SKY, 2: SEA})
    assert causes_of(row("5555555555", {5: SKY}), stuff) == ({2: "stuff_leaking"}, {})  # 5 matches 1


# --- precedence, and segments that are not considered


def test_wrong_class_has_precedence_over_split() -> None:
    truth = row("1111111111", {1: DOG})
    guess = row("5555556677", {5: CAT, 6: DOG, 7: DOG})
    assert causes_of(guess, truth) == ({1: "wrong_class"}, {5: "wrong_class", 6: "split", 7: "split"})


def test_crowds_are_not_considered() -> None:
    truth = row("11112222", {1: DOG, 2: SKY}, crowd=(1,))
    assert causes_of(row("55550000", {5: CAT}), truth) == ({2: "missed"}, {5: "false"})


def test_ignored_predictions_are_not_considered() -> None:
    truth = row("000000001111", {1: DOG})
    assert causes_of(row("555555555555", {5: CAT}), truth) == ({1: "missed"}, {})


def test_maps_without_segments() -> None:
    assert causes_of(row("00", {}), row("00", {})) == ({}, {})
    listed = panoptic([[0, 0]], {1: DOG}, areas={1: 4})
    assert causes_of(row("00", {}), listed) == ({1: "missed"}, {})


# --- the rules in plain code, segment by segment


class PlainRules:
    """The rules of docs/evaluation.md in sets of pixels."""

    def __init__(self, pair: Pair, record: ImageOverlap, matching: Matching) -> None:
        prediction, truth = pair
        self.void = _pixels(truth, 0)
        self.truth = {s.id: _pixels(truth, s.id) for s in truth.segments}
        self.guess = {s.id: _pixels(prediction, s.id) - self.void for s in prediction.segments}
        self.category = {s.id: s.category_id for s in truth.segments}
        self.guessed = {s.id: s.category_id for s in prediction.segments}
        t, p = [s.id for s in truth.segments], [s.id for s in prediction.segments]
        self.missed, self.wrong = [t[i] for i in matching.missed], [p[i] for i in matching.wrong]
        self.matched_truth, self.matched = {t[i] for i in matching.rows}, {p[i] for i in matching.columns}
        self.counted_truth = [i for i in t if i in self.matched_truth or i in self.missed]
        self.counted = [i for i in p if i in self.matched or i in self.wrong]
        self.all_things = set().union(*(self.truth[i] for i in t if not is_stuff(self.category[i])), set())

    def inside(self, t: int, p: int) -> bool:
        return 2 * len(self.truth[t] & self.guess[p]) > len(self.guess[p])

    def under(self, t: int, p: int) -> bool:
        return 2 * len(self.truth[t] & self.guess[p]) > len(self.truth[t])

    def same(self, t: int, p: int) -> bool:
        return self.category[t] == self.guessed[p]

    def confused(self, t: int, p: int) -> bool:
        free = t in self.missed and p in self.wrong
        return free and not self.same(t, p) and self.inside(t, p) and self.under(t, p)

    def partners(self, t: int, p: int) -> bool:
        if not (t in self.missed and p in self.wrong and self.same(t, p)):
            return False
        union = len(self.truth[t] | self.guess[p])
        near = union > 0 and Fraction(len(self.truth[t] & self.guess[p]), union) > Fraction(1, 10)
        return self.inside(t, p) or self.under(t, p) or near

    def pieces(self, t: int) -> list[int]:
        return [p for p in self.counted if self.same(t, p) and self.inside(t, p)]

    def swallowed(self, p: int) -> list[int]:
        return [t for t in self.counted_truth if self.same(t, p) and self.under(t, p)]

    def cause_of_missed(self, t: int) -> str:
        if any(self.confused(t, p) for p in self.wrong):
            return "wrong_class"
        if len(self.pieces(t)) >= 2:
            return "split"
        over = [p for p in self.counted if t in self.swallowed(p)]
        if any(p in self.matched or len(self.swallowed(p)) >= 2 for p in over):
            return "merged"
        partners = [p for p in self.wrong if self.partners(t, p)]
        if any(is_stuff(self.guessed[p]) and not self.inside(t, p) for p in partners):
            return "stuff_leaking"
        if partners:
            return "poor_mask"
        beneath = any(is_stuff(self.guessed[p]) and self.under(t, p) for p in self.counted)
        return "stuff_leaking" if is_stuff(self.category[t]) and beneath else "missed"

    def cause_of_wrong(self, p: int) -> str:
        if any(self.confused(t, p) for t in self.missed):
            return "wrong_class"
        homes = [t for t in self.counted_truth if p in self.pieces(t)]
        if any(t in self.matched_truth or len(self.pieces(t)) >= 2 for t in homes):
            return "split"
        if len(self.swallowed(p)) >= 2:
            return "merged"
        partners = [t for t in self.missed if self.partners(t, p)]
        if is_stuff(self.guessed[p]) and any(not self.inside(t, p) for t in partners):
            return "stuff_leaking"
        if partners:
            return "poor_mask"
        over = 2 * len(self.guess[p] & self.all_things) > len(self.guess[p])
        return "stuff_leaking" if is_stuff(self.guessed[p]) and over else "false"


def is_stuff(category_id: int) -> bool:
    return category_id in (SKY, SEA)


def _pixels(panoptic_map: PanopticMap, number: int) -> set[int]:
    return set(np.flatnonzero(panoptic_map.ids == number).tolist())


def assert_equals_plain_rules(pair: Pair) -> tuple[Named, Named]:
    record = compare(*pair)
    rules = PlainRules(pair, record, match_segments(record, TABLE))
    expected = (
        {t: rules.cause_of_missed(t) for t in rules.missed},
        {p: rules.cause_of_wrong(p) for p in rules.wrong},
    )
    assert causes_of(*pair) == expected
    return expected


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(drawn_pairs())
def test_equals_the_plain_rules(pair: Pair) -> None:
    assert_equals_plain_rules(pair)


def coarse_pairs(count: int, seed: int) -> list[Pair]:
    """Return segments in long runs with many neighbors of one category, so that every cause occurs."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        sides = [np.repeat(rng.integers(0, 6, (1, 6)), rng.integers(1, 6, 6), axis=1) for _ in range(2)]
        width = min(side.shape[1] for side in sides)
        drawn = []
        for side in sides:
            ids = side[:, :width]
            categories = {int(i): int(rng.choice([DOG, SKY, SEA])) for i in np.unique(ids) if i}
            drawn.append(panoptic(ids, categories))
        crowd = tuple(replace(s, is_crowd=bool(rng.random() < 0.1)) for s in drawn[1].segments)
        pairs.append((drawn[0], replace(drawn[1], segments=crowd)))
    return pairs


@pytest.mark.slow
def test_equals_the_plain_rules_on_maps_with_every_cause() -> None:
    found = [assert_equals_plain_rules(pair) for pair in (*coarse_pairs(250, seed=0), *seeded_pairs(30))]
    missed = {cause for causes, _ in found for cause in causes.values()}
    wrong = {cause for _, causes in found for cause in causes.values()}
    assert missed | {"false"} == wrong | {"missed"} == {cause.key for cause in Cause}


@pytest.mark.parametrize("pair", coarse_pairs(20, seed=1))
def test_confused_pairs_have_both_segments(pair: Pair) -> None:
    record = compare(*pair)
    matching = match_segments(record, TABLE)
    causes = find_causes(record, matching, TABLE)
    rows, columns = causes.confused.T
    assert sorted(rows) == matching.missed[causes.missed == Cause.WRONG_CLASS].tolist()
    assert sorted(columns) == matching.wrong[causes.wrong == Cause.WRONG_CLASS].tolist()
