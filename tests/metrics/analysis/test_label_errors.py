"""Probable label errors on hand-made maps of 20 x 20 pixels, with scores worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import PanopticMap
from panformer_cli.metrics.analysis.label_errors import Kind, Suspect, find_label_errors, ranked
from panformer_cli.metrics.analysis.usual_behavior import UsualBehavior
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.metrics.matching import match_segments
from tests.metrics.test_quality import CAT, DOG, SEA, SKY, TABLE, seeded_pairs

Box = tuple[int, int, int, int]
Pair = tuple[PanopticMap, PanopticMap]


def scene(
    boxes: dict[int, tuple[int, Box]], ground: int | None = SKY, scores: dict[int, float] | None = None, first: int = 1
) -> PanopticMap:
    """Return a map of 20 x 20 pixels with boxes on one ground.

    Args:
        boxes: category and (x, y, width, height) by segment id; later ones are on top.
        ground: category of the ground; None for void.
        scores: by segment id; the others are 0.9.
        first: id of the ground.
    """
    ids: npt.NDArray[np.int32] = np.full((20, 20), first if ground else 0, np.int32)
    categories = {first: ground} if ground else {}
    for number, (category, (x, y, width, height)) in boxes.items():
        ids[y : y + height, x : x + width] = number
        categories[number] = category
    given = scores or {}
    return PanopticMap(ids, tuple(replace(s, score=given.get(s.id, 0.9)) for s in segments_of(ids, categories)))


def predicted(boxes: dict[int, tuple[int, Box]], ground: int | None = SKY, **scores: float) -> PanopticMap:
    """Return a prediction; its ground has the id 11, and `_12=0.4` is the score of segment 12."""
    return scene(boxes, ground, {int(name[1:]): score for name, score in scores.items()}, first=11)


PERFECT = predicted({12: (DOG, (2, 2, 6, 6))}), scene({2: (DOG, (2, 2, 6, 6))})
"""A dog of 36 pixels on the sky, both predicted with the score 0.9."""

NOISE = 20 / 19.9
"""Confidence / score of a dog after ten perfect images and one dog too many: (10 + 10) / (11 x 0.9 + 10)."""


def suspects_of(prediction: PanopticMap, truth: PanopticMap, perfect: int = 10, others: tuple[Pair, ...] = ()) -> Any:
    """Return the suspects of an image that is evaluated with `perfect` perfect images and some others."""
    usual = UsualBehavior(TABLE)
    pairs = [*[PERFECT] * perfect, *others, (prediction, truth)]
    for pair in pairs:
        overlap = compare(*pair)
        usual.add(overlap, match_segments(overlap, TABLE))
    return find_label_errors(overlap, match_segments(overlap, TABLE), usual, TABLE)


def the_suspect(prediction: PanopticMap, truth: PanopticMap, **settings: Any) -> Suspect:
    (suspect,) = suspects_of(prediction, truth, **settings)
    assert isinstance(suspect, Suspect)
    assert suspect.score == suspect.confidence * suspect.clarity * suspect.rarity
    return suspect


def ids_of(suspect: Suspect) -> tuple[list[int], list[int]]:
    return [segment.id for segment in suspect.truth], [segment.id for segment in suspect.predictions]


def test_missing_annotation() -> None:
    suspect = the_suspect(predicted({12: (DOG, (2, 2, 6, 6))}), scene({}))
    assert (suspect.kind, ids_of(suspect), suspect.box) == (Kind.MISSING_ANNOTATION, ([1], [12]), (2, 2, 6, 6))
    assert suspect.confidence == pytest.approx(0.9 * NOISE)
    assert suspect.clarity == 1
    assert suspect.reason == "The model sees dog where the annotation has sky."


def test_missing_annotation_on_void() -> None:
    suspect = the_suspect(predicted({12: (DOG, (2, 2, 6, 6))}, ground=None), scene({}, ground=None))
    assert (suspect.kind, ids_of(suspect), suspect.clarity) == (Kind.MISSING_ANNOTATION, ([], [12]), 1)
    assert suspect.confidence == pytest.approx(0.9 * NOISE)
    assert suspect.reason == "The model sees dog where the annotation has nothing."


def test_missing_annotation_partly_on_a_thing() -> None:
    prediction = predicted({12: (DOG, (2, 2, 6, 6)), 13: (CAT, (6, 2, 10, 6))})
    suspect = the_suspect(prediction, scene({3: (CAT, (6, 2, 10, 6))}))
    assert suspect.kind is Kind.MISSING_ANNOTATION and suspect.clarity == 1  # the cat is on top
    prediction = predicted({13: (CAT, (8, 2, 8, 6)), 12: (DOG, (2, 2, 6, 6))})
    suspect = the_suspect(prediction, scene({3: (CAT, (6, 2, 10, 6))}))
    assert suspect.kind is Kind.MISSING_ANNOTATION and suspect.clarity == pytest.approx(4 / 6)


def test_missing_stuff() -> None:
    truth = scene({})
    suspect = the_suspect(predicted({12: (SEA, (0, 0, 20, 5))}), truth)
    assert (suspect.kind, ids_of(suspect), suspect.confidence) == (
        Kind.MISSING_ANNOTATION,
        ([1], [12]),
        0.9 * 10 / 10.9,
    )


def test_wrong_class() -> None:
    suspect = the_suspect(predicted({12: (DOG, (2, 2, 6, 5))}), scene({3: (CAT, (2, 2, 6, 6))}))
    assert (suspect.kind, ids_of(suspect), suspect.box) == (Kind.WRONG_CLASS, ([3], [12]), (2, 2, 6, 6))
    assert suspect.confidence == pytest.approx(0.9 * NOISE)
    assert suspect.clarity == pytest.approx(30 / 36)
    assert suspect.reason == "Annotated as cat, but the model sees dog at the same location (IoU 0.83)."


def test_wrong_class_of_stuff() -> None:
    suspect = the_suspect(predicted({}, ground=SEA), scene({}))
    assert (suspect.kind, ids_of(suspect), suspect.clarity) == (Kind.WRONG_CLASS, ([1], [11]), 1)


def test_a_prediction_mostly_on_void_does_not_contradict_a_class() -> None:
    """The IoU ignores void, so it is 1 with a cat of 15 of the 100 pixels that the dog covers."""
    truth, prediction = scene({3: (CAT, (2, 2, 5, 3))}, ground=None), predicted({12: (DOG, (2, 2, 10, 10))}, None)
    suspect = the_suspect(prediction, truth)
    assert (suspect.kind, ids_of(suspect)) == (Kind.MISSING_ANNOTATION, ([], [12]))
    assert suspect.clarity == pytest.approx(0.85)
    half = scene({3: (CAT, (2, 2, 10, 5))}, ground=None)
    assert the_suspect(prediction, half).kind is Kind.WRONG_CLASS


def test_stuff_on_a_crowd_of_its_class_is_not_missing() -> None:
    """The crowd of sea has 8 rows; only what is below them contradicts the annotation."""
    truth = scene({3: (SEA, (0, 0, 20, 8))})
    crowd = PanopticMap(truth.ids, tuple(replace(s, is_crowd=s.category_id == SEA) for s in truth.segments))
    assert suspects_of(predicted({12: (SEA, (0, 0, 20, 8))}), crowd) == []
    for rows, clarity in ((15, []), (17, [pytest.approx(9 / 17)])):
        suspects = suspects_of(predicted({12: (SEA, (0, 0, 20, rows))}), crowd)
        assert [s.clarity for s in suspects if s.kind is Kind.MISSING_ANNOTATION] == clarity


def test_merged_instances() -> None:
    truth = scene({2: (DOG, (2, 2, 10, 4))})
    prediction = predicted({12: (DOG, (2, 2, 4, 4)), 13: (DOG, (7, 2, 5, 4))}, _12=0.8, _13=0.7)
    suspect = the_suspect(prediction, truth)
    assert (suspect.kind, ids_of(suspect), suspect.box) == (Kind.MERGED_INSTANCES, ([2], [12, 13]), (2, 2, 10, 4))
    # 20 / 40 is not above 0.5: neither dog matches, and the less certain one counts.
    assert suspect.confidence == pytest.approx(0.7 * 10 / 10.7)
    assert suspect.clarity == pytest.approx(36 / 40)
    assert suspect.reason == "One dog is annotated where the model sees 2, which cover 90 % of it."


def test_merged_instances_with_a_match() -> None:
    truth = scene({2: (DOG, (2, 2, 10, 4))})
    suspect = the_suspect(predicted({12: (DOG, (2, 2, 6, 4)), 13: (DOG, (8, 2, 4, 4))}), truth)
    assert (suspect.kind, ids_of(suspect), suspect.clarity) == (Kind.MERGED_INSTANCES, ([2], [12, 13]), 1)


def test_split_instance() -> None:
    truth = scene({2: (DOG, (2, 2, 5, 4)), 3: (DOG, (7, 2, 5, 4))})
    suspect = the_suspect(predicted({12: (DOG, (2, 2, 10, 4))}), truth)
    assert (suspect.kind, ids_of(suspect), suspect.clarity) == (Kind.SPLIT_INSTANCE, ([2, 3], [12]), 1)
    things = 10 / 12  # found; all things are dogs of one size step, so all priors are equal
    assert suspect.confidence == pytest.approx(0.9 * NOISE * things)
    assert suspect.reason == "2 dog segments are annotated where the model sees one, of which they cover 100 %."


def test_poor_outline() -> None:
    poor = predicted({12: (DOG, (2, 2, 6, 6))}), scene({2: (DOG, (2, 2, 6, 10))})  # IoU 0.6
    suspect = the_suspect(*poor)
    assert (suspect.kind, ids_of(suspect), suspect.box) == (Kind.POOR_OUTLINE, ([2], [12]), (2, 2, 6, 10))
    mean, deviation = 10.6 / 11, 0.4 * sqrt(10) / 11
    assert 1 - (deviation / (mean - 0.6)) ** 2 == pytest.approx(0.9)
    assert suspect.clarity == pytest.approx(0.9 * (mean - 0.6) / (mean - 0.5))
    assert suspect.confidence == pytest.approx(min(1, 0.9 * 21 / 19.9))
    assert (
        suspect.reason
        == "The outline agrees with the prediction only to IoU 0.60; 0.96 is usual for dog segments of this size."
    )


def test_an_outline_is_poor_only_if_that_is_unusual() -> None:
    poor = predicted({12: (DOG, (2, 2, 6, 6))}), scene({2: (DOG, (2, 2, 6, 10))})
    assert suspects_of(*poor, others=(poor,) * 5) == []


def test_an_outline_that_no_longer_matches() -> None:
    suspect = the_suspect(predicted({12: (DOG, (2, 2, 6, 6))}), scene({2: (DOG, (2, 2, 6, 15))}))  # IoU 0.4
    assert (suspect.kind, ids_of(suspect)) == (Kind.POOR_OUTLINE, ([2], [12]))
    assert suspect.clarity == 1  # all other outlines are perfect
    assert suspect.confidence == pytest.approx(0.9 * NOISE)


def test_surplus_label() -> None:
    suspect = the_suspect(predicted({}), scene({2: (DOG, (2, 2, 6, 6))}))
    assert (suspect.kind, ids_of(suspect), suspect.box) == (Kind.SURPLUS_LABEL, ([2], [11]), (2, 2, 6, 6))
    skies = min(1, 0.9 * 21 / 19.9)  # all eleven match
    assert suspect.confidence == pytest.approx(10 / 11 * skies)
    assert suspect.clarity == 1
    assert suspect.reason == "The model sees sky here, although it finds 91 % of the dog segments of this size."


def test_segments_that_the_model_often_misses_are_no_surplus() -> None:
    missed = predicted({}), scene({2: (DOG, (2, 2, 6, 6))})
    assert suspects_of(*missed, others=(missed,) * 10) == []


def test_predicted_void_contradicts_nothing() -> None:
    assert suspects_of(predicted({}, ground=None), scene({2: (DOG, (2, 2, 6, 6))})) == []


CONTRADICTIONS: dict[str, Pair] = {
    "missing": (predicted({12: (DOG, (2, 2, 6, 6))}), scene({})),
    "class": (predicted({12: (DOG, (2, 2, 6, 6))}), scene({3: (CAT, (2, 2, 6, 6))})),
    "merged": (predicted({12: (DOG, (2, 2, 5, 4)), 13: (DOG, (7, 2, 5, 4))}), scene({2: (DOG, (2, 2, 10, 4))})),
    "split": (predicted({12: (DOG, (2, 2, 10, 4))}), scene({2: (DOG, (2, 2, 5, 4)), 3: (DOG, (7, 2, 5, 4))})),
    "outline": (predicted({12: (DOG, (2, 2, 6, 6))}), scene({2: (DOG, (2, 2, 6, 10))})),
    "surplus": (predicted({}), scene({2: (DOG, (2, 2, 6, 6))})),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
@pytest.mark.parametrize("score", [0.3, None])
def test_predictions_without_confidence_contradict_nothing(name: str, score: float | None) -> None:
    prediction, truth = CONTRADICTIONS[name]
    assert len(suspects_of(prediction, truth)) == 1
    unsure = PanopticMap(prediction.ids, tuple(replace(segment, score=score) for segment in prediction.segments))
    assert suspects_of(unsure, truth) == []


@pytest.mark.parametrize("number", range(20))
def test_a_prediction_that_equals_the_ground_truth_contradicts_nothing(number: int) -> None:
    _, truth = seeded_pairs(20, seed=3)[number]
    segments = tuple(replace(s, score=0.95) for s in truth.segments if (truth.ids == s.id).any())
    kept = np.where(np.isin(truth.ids, [segment.id for segment in segments]), truth.ids, 0)
    perfect = PanopticMap(kept, tuple(replace(s, area=int((kept == s.id).sum())) for s in segments))
    plain = PanopticMap(kept, tuple(replace(s, score=None, is_crowd=False) for s in perfect.segments))
    assert suspects_of(perfect, plain) == []


@pytest.mark.parametrize("pair", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_crowds_are_never_suspects(pair: Pair) -> None:
    prediction, truth = pair
    crowds = tuple(replace(s, is_crowd=TABLE.by_id(s.category_id).is_thing) for s in truth.segments)
    suspects = suspects_of(prediction, PanopticMap(truth.ids, crowds))
    assert all(not segment.is_crowd for suspect in suspects for segment in suspect.truth)
    assert {suspect.kind for suspect in suspects} <= {Kind.MISSING_ANNOTATION}


@pytest.mark.parametrize("number", range(60))
def test_a_segment_is_wrong_in_one_suspect_at_most(number: int) -> None:
    prediction, truth = seeded_pairs(60, seed=5)[number]
    scored = PanopticMap(prediction.ids, tuple(replace(s, score=0.95) for s in prediction.segments))
    suspects = suspects_of(scored, truth)
    wrong = [s.id for x in suspects if x.kind is not Kind.MISSING_ANNOTATION for s in x.truth]
    contradicting = [s.id for x in suspects if x.kind is not Kind.SURPLUS_LABEL for s in x.predictions]
    assert len(wrong) == len(set(wrong)) and len(contradicting) == len(set(contradicting))
    assert all(0.5 <= x.confidence <= 1 and 0.5 <= x.clarity <= 1 for x in suspects)


def test_the_neighbors_of_a_suspect_have_no_poor_outline() -> None:
    """A dog that is not annotated takes a quarter of the sky, but the outline of the sky is right."""
    prediction = predicted({12: (DOG, (0, 0, 10, 10))})
    (suspect,) = suspects_of(prediction, scene({}))
    assert suspect.kind is Kind.MISSING_ANNOTATION


def test_a_missing_annotation_names_stuff_that_has_a_wrong_class_itself() -> None:
    prediction = predicted({12: (DOG, (2, 2, 6, 6))}, ground=SEA)
    first, second = suspects_of(prediction, scene({}))
    assert (first.kind, second.kind) == (Kind.WRONG_CLASS, Kind.MISSING_ANNOTATION)
    assert second.reason == "The model sees dog where the annotation has sky."


def test_suspects_are_ranked_by_score_and_then_by_name() -> None:
    base = the_suspect(*CONTRADICTIONS["missing"])
    made = [replace(base, file_name=name, confidence=value) for name, value in (("b", 0.6), ("a", 0.6), ("c", 0.9))]
    for order in (made, made[::-1]):
        assert [suspect.file_name for suspect in ranked(order, UsualBehavior(TABLE), TABLE)] == ["c", "a", "b"]


def test_frequent_contradictions_of_a_class_rank_below_rare_ones() -> None:
    usual = UsualBehavior(TABLE)
    for pair in [PERFECT] * 50:
        overlap = compare(*pair)
        usual.add(overlap, match_segments(overlap, TABLE))
    often = [replace(the_suspect(*CONTRADICTIONS["class"]), confidence=0.9)] * 30
    once = replace(the_suspect(*CONTRADICTIONS["missing"]), confidence=0.7)
    first, *others = ranked([*often, once], usual, TABLE)
    assert first.kind is Kind.MISSING_ANNOTATION
    # 50 dogs match, and 10 more are the prior: the rates are 1/60 and 30/60.
    assert first.rarity == pytest.approx(0.033 / (0.033 + 1 / 60))
    assert [suspect.rarity for suspect in others] == pytest.approx([0.033 / (0.033 + 0.5)] * 30)
    assert first.score == pytest.approx(0.7 * first.rarity)


def test_a_row_of_the_list() -> None:
    suspect = the_suspect(*CONTRADICTIONS["missing"])
    assert suspect.to_json() == {
        "image_id": 0,
        "file_name": "the image",
        "kind": "missing_annotation",
        "score": suspect.score,
        "confidence": suspect.confidence,
        "clarity": 1.0,
        "rarity": 1.0,
        "truth": [{"id": 1, "category_id": SKY}],
        "predictions": [{"id": 12, "category_id": DOG, "score": 0.9}],
        "box": [2, 2, 6, 6],
        "reason": "The model sees dog where the annotation has sky.",
    }
