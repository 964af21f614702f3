"""Lost points of PQ, compared with hand-worked values, with PQ, and with maps whose errors were fixed."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import fsum
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.errors import DataError
from panformer_cli.metrics.analysis.attribution import Attribution
from panformer_cli.metrics.analysis.causes import Cause, find_causes
from panformer_cli.metrics.analysis.lost_points import LostPoints
from panformer_cli.metrics.image_overlap import ImageOverlap, compare
from panformer_cli.metrics.matching import match_segments
from panformer_cli.metrics.quality import PanopticQuality, PanopticResult
from panformer_cli.metrics.sizes import SIZES, SizeQuality
from tests.metrics.test_image_overlap import random_map
from tests.metrics.test_quality import CAT, DOG, SEA, SKY, TABLE, Pair, drawn_pairs, panoptic, seeded_pairs

THINGS, STUFF = range(2), range(2, 4)


def attribute(records: list[ImageOverlap], table: CategoryTable = TABLE) -> Attribution:
    attribution = Attribution(table)
    for record in records:
        matching = match_segments(record, table)
        attribution.add(record, matching, find_causes(record, matching, table))
    return attribution


def lost(*pairs: Pair) -> LostPoints:
    return attribute([compare(*pair) for pair in pairs]).result()


def quality_of(records: list[ImageOverlap], table: CategoryTable = TABLE) -> PanopticResult:
    quality = PanopticQuality(table)
    for record in records:
        quality.update(record)
    return quality.result()


def points_of(result: LostPoints, category_id: int) -> dict[str, float]:
    """Return the points that a category lost to each cause, without zeros."""
    points = result.points[TABLE.label(category_id)].sum(axis=0)
    return {cause.key: float(points[cause]) for cause in Cause if points[cause]}


# --- hand-worked values


def test_a_pair_loses_one_minus_iou() -> None:
    truth = panoptic([[1] * 8 + [2] * 4], {1: DOG, 2: CAT})
    guess = panoptic([[5] * 7 + [0] + [5] + [0] * 3], {5: DOG})  # IoU 7/9
    assert points_of(lost((guess, truth)), DOG) == {"poor_mask": pytest.approx(200 / 9)}


def test_matched_stuff_leaks_by_pixels_outside_and_is_poor_by_missing_ones() -> None:
    truth = panoptic([[1] * 8 + [2] * 4 + [0] * 2], {1: SKY, 2: CAT})
    guess = panoptic(
        [[5] * 5 + [0] * 3 + [5] + [0] * 3 + [5] * 2], {5: SKY}
    )  # IoU 5/9: 1 outside, 3 missing, void ignored
    shares = points_of(lost((guess, truth)), SKY)
    assert shares == {"stuff_leaking": pytest.approx(100 / 9), "poor_mask": pytest.approx(300 / 9)}


def test_an_unmatched_segment_loses_one_half() -> None:
    # Three dogs: one found, one missed; a false one. PQ = 1 / (1 + 1/2 + 1/2).
    truth = panoptic([[1] * 4 + [2] * 4 + [3] * 4], {1: DOG, 2: DOG, 3: SKY})
    guess = panoptic([[5] * 4 + [0] * 4 + [6, 7, 7, 7]], {5: DOG, 6: DOG, 7: SKY})
    result = lost((guess, truth))
    assert points_of(result, DOG) == {"missed": pytest.approx(25.0), "false": pytest.approx(25.0)}
    assert result.pq[TABLE.label(DOG)] == pytest.approx(50.0)


def test_each_category_has_equal_weight_in_the_mean() -> None:
    truth = panoptic([[1] * 4 + [2] * 4], {1: DOG, 2: SKY})
    result = lost((panoptic([[0] * 4 + [5] * 4], {5: SKY}), truth))
    assert result.mean(range(4)).sum(axis=0)[Cause.MISSED] == pytest.approx(50.0)
    assert result.mean(THINGS).sum(axis=0)[Cause.MISSED] == pytest.approx(100.0)
    assert not result.mean(STUFF).any()
    assert not lost().mean(range(4)).any()


def test_listed_areas_that_are_too_small_do_not_change_the_sum() -> None:
    truth = panoptic([[1] * 8], {1: SKY}, areas={1: 5})
    record = compare(panoptic([[5] * 8], {5: SKY}), truth)  # IoU 8/5
    result = attribute([record]).result()
    assert result.pq[TABLE.label(SKY)] == pytest.approx(160.0) == quality_of([record]).all.pq
    assert points_of(result, SKY) == {"poor_mask": pytest.approx(-60.0)}


# --- the parts add up


def assert_adds_up(records: list[ImageOverlap], table: CategoryTable = TABLE) -> None:
    result, quality = attribute(records, table).result(), quality_of(records, table)
    for row, pq, points in zip(quality.categories, result.pq, result.points, strict=True):
        assert pq == pytest.approx(row.pq, abs=1e-9)
        assert fsum(points.flat) == pytest.approx(100 - row.pq if row.counts else 0, abs=1e-9)
    things = range(table.num_things)
    labels = range(len(table))
    for group, chosen in ((quality.all, labels), (quality.things, things), (quality.stuff, labels[len(things) :])):
        assert fsum(result.mean(chosen).flat) == pytest.approx(100 - group.pq if group.n else 0, abs=1e-9)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(drawn_pairs(), min_size=1, max_size=3))
def test_the_parts_add_up_to_the_loss_of_pq(pairs: list[Pair]) -> None:
    assert_adds_up([compare(*pair) for pair in pairs])


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_the_parts_add_up_on_blocks(seed: int) -> None:
    sides = [random_map(seed + side, (6, 5), [7, 300, 70000, 900, 12]) for side in (0, 1)]
    table = [DOG, CAT, SKY, SEA, SKY]
    known = [
        replace(side, segments=tuple(replace(s, category_id=table[s.category_id]) for s in side.segments))
        for side in sides
    ]
    assert_adds_up([compare(known[0], known[1])])


@pytest.mark.slow
def test_the_parts_add_up_on_many_images() -> None:
    assert_adds_up([compare(*pair) for pair in seeded_pairs(300, seed=4)])


def test_the_parts_add_up_on_real_annotations(shared: Path) -> None:
    data = CocoPanoptic(shared / "data" / "coco_mini", "val2017")
    records = [compare(disturbed(data.annotation(i), i), data.annotation(i)) for i in range(len(data))]
    assert_adds_up(records, data.categories)
    causes = attribute(records, data.categories).result().mean(range(len(data.categories))).sum(axis=0)
    assert np.count_nonzero(causes) >= 4, "a disturbed ground truth has several causes"


def disturbed(truth: PanopticMap, seed: int) -> PanopticMap:
    """Return the ground truth shifted by some pixels, with swapped categories and missing segments."""
    rng = np.random.default_rng(seed)
    ids = np.roll(truth.ids, (9, 14), axis=(0, 1))
    swapped = rng.permutation([segment.category_id for segment in truth.segments])
    kept = [
        replace(segment, category_id=int(other) if rng.random() < 0.3 else segment.category_id, is_crowd=False)
        for segment, other in zip(truth.segments, swapped, strict=True)
        if rng.random() < 0.9 and (ids == segment.id).any()
    ]
    return PanopticMap(np.where(np.isin(ids, [segment.id for segment in kept]), ids, 0), tuple(kept))


def test_sizes_equal_those_of_pq_by_size() -> None:
    rng = np.random.default_rng(0)
    layout = np.kron(rng.integers(1, 8, (6, 6)), np.ones((30, 30), dtype=int))
    moved = np.roll(layout, 11, axis=1)
    truth = panoptic(layout, {i: [DOG, CAT, SKY][i % 3] for i in range(1, 8) if (layout == i).any()})
    guess = panoptic(moved, {i: [DOG, CAT, SKY][i % 4 % 3] for i in range(1, 8) if (moved == i).any()})
    record = compare(guess, truth)
    sizes = SizeQuality(TABLE)
    sizes.update(record)
    result = attribute([record]).result()
    for size, name in enumerate(SIZES):
        rows = sizes.result()[name].categories
        counts = [(row.tp, row.fp, row.fn) for row in rows]
        columns = (result.tp, result.fp, result.fn)
        assert [tuple(int(c[label, size]) for c in columns) for label in range(4)] == counts
    small = compare(panoptic([[0] * 9], {}), panoptic([[1] * 9], {1: DOG}))
    assert attribute([small]).result().points[TABLE.label(DOG), :, Cause.MISSED].tolist() == [100.0, 0.0, 0.0]


# --- gains


@pytest.mark.slow
def test_deleting_the_false_predictions_gives_their_gain() -> None:
    records, fixed, pairs = [], [], seeded_pairs(120, seed=5)
    for prediction, truth in pairs:
        record = compare(prediction, truth)
        matching = match_segments(record, TABLE)
        causes = find_causes(record, matching, TABLE)
        false = matching.wrong[causes.wrong == Cause.FALSE].tolist()
        removed = [record.predictions[column].id for column in false]
        kept = tuple(segment for segment in prediction.segments if segment.id not in removed)
        records.append(record)
        fixed.append(compare(PanopticMap(np.where(np.isin(prediction.ids, removed), 0, prediction.ids), kept), truth))
    gain = attribute(records).result().cause_gains[Cause.FALSE]
    assert gain > 5
    assert gain == pytest.approx(quality_of(fixed).all.pq - quality_of(records).all.pq, abs=1e-9)


def test_a_fixed_missed_segment_has_the_mean_iou_of_its_category() -> None:
    # Dogs: IoU 3/4 and one missed: PQ = .75 / 1.5 = 50; fixed (.75 + .75) / 2 = 75. Sky: 100.
    truth = panoptic([[1] * 4 + [2] * 4 + [3] * 4], {1: DOG, 2: DOG, 3: SKY})
    guess = panoptic([[5] * 3 + [0] * 5 + [6] * 4], {5: DOG, 6: SKY})
    result = lost((guess, truth))
    assert result.gains[TABLE.label(DOG), Cause.MISSED] == pytest.approx(25 / 2)
    assert result.gains[TABLE.label(DOG), Cause.POOR_MASK] == pytest.approx((100 / 1.5 - 50) / 2)
    assert result.cause_gains[Cause.MISSED] == pytest.approx(25 / 2)
    assert not result.gains[TABLE.label(SKY)].any()


def test_in_a_category_without_pairs_it_has_the_mean_iou_of_all_pairs() -> None:
    truth = panoptic([[1] * 4 + [2] * 4], {1: DOG, 2: SKY})
    result = lost((panoptic([[0] * 4 + [5] * 3 + [0]], {5: SKY}), truth))
    assert result.gains[TABLE.label(DOG), Cause.MISSED] == pytest.approx(75 / 2)
    alone = lost((panoptic([[0]], {}), panoptic([[1]], {1: DOG})))
    assert alone.gains[TABLE.label(DOG), Cause.MISSED] == pytest.approx(100.0)


def test_a_category_with_only_false_predictions_leaves_the_mean() -> None:
    truth = panoptic([[1] * 4], {1: SKY})
    result = lost((panoptic([[5, 5, 5, 6]], {5: SKY, 6: DOG}), truth))  # PQ (75 + 0) / 2
    assert result.gains[TABLE.label(DOG), Cause.FALSE] == pytest.approx(75 / 2)
    assert result.cause_gains[Cause.FALSE] == pytest.approx(75 / 2)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(drawn_pairs(), min_size=1, max_size=3))
def test_gains_are_not_negative_and_equal_plain_fractions(pairs: list[Pair]) -> None:
    plain = [(guess, replace(truth, segments=_own_areas(truth))) for guess, truth in pairs]
    attribution = attribute([compare(*pair) for pair in plain])
    result = attribution.result()
    assert result.gains.min() >= -1e-9
    before = plain_mean(attribution, {})
    for cause in Cause:
        for label in range(4):
            gain = plain_mean(attribution, {label: cause}) - before
            assert result.gains[label, cause] == pytest.approx(float(gain), abs=1e-9)
        everywhere = plain_mean(attribution, dict.fromkeys(range(4), cause)) - before
        assert result.cause_gains[cause] == pytest.approx(float(everywhere), abs=1e-9)


def plain_mean(attribution: Attribution, fixed: dict[int, Cause]) -> Fraction:
    """Return the mean PQ in percent with causes fixed by label, by the formula of docs/evaluation.md."""
    pairs = [sum(n for (at, _), n in attribution.matched.items() if at == label) for label in range(4)]
    units = [sum(n for (at, _, _), n in attribution.mask_units.items() if at == label) for label in range(4)]
    ious = [Fraction(n) - Fraction(lack, 2**53) for n, lack in zip(pairs, units, strict=True)]
    usual_of_all = sum(ious, Fraction(0)) / sum(pairs) if sum(pairs) else Fraction(1)
    values: list[Fraction] = []
    for label in range(4):
        iou, tp, cause = ious[label], Fraction(pairs[label]), fixed.get(label)
        usual = iou / tp if tp else usual_of_all
        fp = fn = Fraction(0)
        for counts, is_missed in ((attribution.wrong, False), (attribution.missed, True)):
            for (at, _, why), n in counts.items():
                if at != label:
                    continue
                if why != cause:
                    fp, fn = (fp, fn + n) if is_missed else (fp + n, fn)
                elif is_missed:
                    iou, tp = iou + n * (Fraction(1) if cause == Cause.POOR_MASK else usual), tp + n
        iou += sum(
            Fraction(n, 2**53) for (at, _, why), n in attribution.mask_units.items() if (at, why) == (label, cause)
        )
        if tp + fp + fn:
            values.append(100 * iou / (tp + fp / 2 + fn / 2))
    return Fraction(sum(values)) / len(values) if values else Fraction(0)


def _own_areas(truth: PanopticMap) -> tuple[Segment, ...]:
    return tuple(replace(s, area=int((truth.ids == s.id).sum())) for s in truth.segments)


# --- parts


def test_different_category_tables_cannot_be_merged() -> None:
    with pytest.raises(DataError, match="different category tables"):
        Attribution(TABLE).merge(Attribution(CategoryTable(TABLE.categories[:2])))
