"""PQ, compared with hand-worked cases, an independent plain loop, and panopticapi if installed."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.errors import DataError
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.metrics.quality import GroupQuality, PanopticQuality, PanopticResult

DOG, CAT, SKY, SEA = 18, 3, 187, 50
TABLE = CategoryTable(
    [Category(DOG, "dog", True), Category(CAT, "cat", True), Category(SKY, "sky", False), Category(SEA, "sea", False)]
)
Pair = tuple[PanopticMap, PanopticMap]
Counts = dict[int, list[float]]


def panoptic(
    ids: list[list[int]] | np.ndarray,
    categories: dict[int, int],
    crowd: tuple[int, ...] = (),
    areas: dict[int, int] | None = None,
) -> PanopticMap:
    """Return a map with a segment for each id in `categories`; areas are counted unless given."""
    array = np.array(ids, dtype=np.int32)
    pixels = {i: int((array == i).sum()) for i in categories} | (areas or {})
    rows = [Segment(i, category, pixels[i], (0, 0, 0, 0), i in crowd) for i, category in categories.items()]
    return PanopticMap(array, tuple(rows))


def measure(*pairs: Pair) -> PanopticResult:
    quality = PanopticQuality(TABLE)
    for prediction, truth in pairs:
        quality.update(compare(prediction, truth))
    return quality.result()


def counts_of(result: PanopticResult, category_id: int) -> tuple[int, int, int]:
    row = next(row for row in result.categories if row.category_id == category_id)
    return row.tp, row.fp, row.fn


# --- hand-worked cases


def test_perfect_prediction_gives_100_and_empty_groups_give_0() -> None:
    truth = panoptic([[1, 1, 2, 0], [1, 3, 2, 0]], {1: DOG, 2: DOG, 3: CAT})
    result = measure((panoptic([[9, 9, 4, 5], [9, 8, 4, 4]], {9: DOG, 4: DOG, 8: CAT, 5: SEA}), truth))
    assert result.all == result.things == GroupQuality(pq=100.0, sq=100.0, rq=100.0, n=2)
    assert result.stuff == GroupQuality(pq=0.0, sq=0.0, rq=0.0, n=0)
    assert [row.counts for row in result.categories] == [True, True, False, False]  # cat, dog, sea, sky


def test_nothing_counted_gives_zeros() -> None:
    assert PanopticQuality(TABLE).result().all == GroupQuality(pq=0.0, sq=0.0, rq=0.0, n=0)


def test_hand_worked_image() -> None:
    # dog 1: 4 pixels, 3 predicted + 1 outside: IoU 3/5. dog 2: not found. sky: 6 pixels, 5 found: IoU 5/6.
    truth = panoptic([[1, 1, 1, 1, 2, 2], [7, 7, 7, 7, 7, 7]], {1: DOG, 2: DOG, 7: SKY})
    guess = panoptic([[5, 5, 5, 6, 6, 6], [5, 8, 8, 8, 8, 8]], {5: DOG, 6: CAT, 8: SKY})
    result = measure((guess, truth))
    cat, dog, sea, sky = result.categories
    assert (dog.tp, dog.fp, dog.fn) == (1, 0, 1)
    assert (dog.pq, dog.sq, dog.rq) == pytest.approx((40.0, 60.0, 100 / 1.5))
    assert (cat.tp, cat.fp, cat.fn, cat.pq) == (0, 1, 0, 0.0)
    assert (sky.tp, sky.fp, sky.fn) == (1, 0, 0)
    assert sky.pq == pytest.approx(500 / 6)
    assert not sea.counts
    assert (result.things.pq, result.things.sq, result.things.rq) == pytest.approx((20.0, 30.0, 100 / 3))
    assert (result.things.n, result.stuff.n) == (2, 1)
    assert result.all.pq == pytest.approx((40 + 0 + 500 / 6) / 3)
    assert result.all.n == 3


def test_an_iou_of_one_half_is_not_a_match() -> None:
    result = measure((panoptic([[5, 0]], {5: DOG}), panoptic([[1, 1]], {1: DOG})))
    assert counts_of(result, DOG) == (0, 1, 1)


def test_void_is_excluded_from_the_union() -> None:
    truth = panoptic([[1, 1, 0, 0, 0]], {1: DOG})
    result = measure((panoptic([[5, 5, 5, 5, 5]], {5: DOG}), truth))
    assert counts_of(result, DOG) == (1, 0, 0)
    assert result.all.sq == 100.0


@pytest.mark.parametrize(("on_void", "fp"), [(2, 1), (3, 0)])
def test_a_prediction_mostly_on_void_is_ignored(on_void: int, fp: int) -> None:
    truth = panoptic([[0] * on_void + [1] * (4 - on_void)], {1: SKY})
    result = measure((panoptic([[5, 5, 5, 5]], {5: DOG}), truth))
    assert counts_of(result, DOG) == (0, fp, 0)  # exactly half is counted


def test_crowds_are_neither_matched_nor_missed_and_only_predictions_of_their_class_are_ignored() -> None:
    truth = panoptic([[1, 1, 1, 1]], {1: DOG}, crowd=(1,))
    assert counts_of(measure((panoptic([[5, 5, 5, 5]], {5: DOG}), truth)), DOG) == (0, 0, 0)
    assert counts_of(measure((panoptic([[5, 5, 5, 5]], {5: CAT}), truth)), CAT) == (0, 1, 0)
    assert counts_of(measure((panoptic([[0, 0, 0, 0]], {}), truth)), DOG) == (0, 0, 0)


@pytest.mark.parametrize(("order", "fp"), [((1, 2), 1), ((2, 1), 0)])
def test_predictions_are_ignored_only_on_the_last_crowd_of_a_category(order: tuple[int, int], fp: int) -> None:
    truth = panoptic([[1, 1, 1, 2]], dict.fromkeys(order, DOG), crowd=(1, 2))
    assert counts_of(measure((panoptic([[5, 5, 5, 5]], {5: DOG}), truth)), DOG) == (0, fp, 0)


def test_void_and_crowd_pixels_add_up() -> None:
    truth = panoptic([[0, 0, 1, 2, 2]], {1: DOG, 2: SKY}, crowd=(1,))
    assert counts_of(measure((panoptic([[5, 5, 5, 5, 5]], {5: DOG}), truth)), DOG) == (0, 0, 0)


def test_ground_truth_areas_are_the_listed_ones() -> None:
    guess = panoptic([[5, 5, 5, 0]], {5: DOG})
    true = panoptic([[1, 1, 1, 1]], {1: DOG})
    assert measure((guess, true)).all.sq == pytest.approx(75.0)
    assert measure((guess, panoptic([[1, 1, 1, 1]], {1: DOG}, areas={1: 5}))).all.sq == pytest.approx(60.0)
    assert counts_of(measure((guess, panoptic([[1, 1, 1, 1]], {1: DOG}, areas={1: 6}))), DOG) == (0, 1, 1)


def test_a_ground_truth_segment_without_pixels_is_missed() -> None:
    truth = panoptic([[1, 1]], {1: DOG, 2: CAT}, areas={2: 7})
    assert counts_of(measure((panoptic([[1, 1]], {1: DOG}), truth)), CAT) == (0, 0, 1)


def test_the_largest_ids_of_a_png() -> None:
    top = 256**3 - 1
    truth = panoptic([[top, top, top - 1, 1]], {1: SKY, top: DOG, top - 1: DOG})
    assert measure((truth, truth)).all == GroupQuality(100.0, 100.0, 100.0, 2)


# --- an independent oracle: one boolean mask per segment


def oracle(pairs: list[Pair]) -> Counts:
    """Return [sum of IoUs, tp, fp, fn] by category id."""
    counts: Counts = defaultdict(lambda: [0.0, 0, 0, 0])
    for prediction, truth in pairs:
        void = truth.ids == 0
        found, used = set(), set()
        for t in truth.segments:
            for p in prediction.segments:
                if t.is_crowd or t.category_id != p.category_id:
                    continue
                own, other = prediction.ids == p.id, truth.ids == t.id
                common = int((own & other).sum())
                if not common:
                    continue
                iou = common / (int((own & ~void).sum()) + t.area - common)
                if iou > 0.5:
                    counts[t.category_id][0] += iou
                    counts[t.category_id][1] += 1
                    found.add(t.id)
                    used.add(p.id)
        for t in truth.segments:
            if not t.is_crowd and t.id not in found:
                counts[t.category_id][3] += 1
        for p in prediction.segments:
            ignorable = void
            crowds = [t for t in truth.segments if t.is_crowd and t.category_id == p.category_id]
            if crowds:
                ignorable = void | (truth.ids == crowds[-1].id)
            own = prediction.ids == p.id
            if p.id not in used and (own & ignorable).sum() / own.sum() <= 0.5:
                counts[p.category_id][2] += 1
    return counts


def oracle_means(counts: Counts, is_thing: tuple[bool, ...]) -> list[float]:
    """Return [pq, sq, rq, n], the first three in 0..1."""
    rows = []
    for category in TABLE.categories:
        iou, tp, fp, fn = counts.get(category.id, [0.0, 0, 0, 0])
        if category.is_thing in is_thing and tp + fp + fn:
            rows.append((iou / (tp + fp / 2 + fn / 2), iou / tp if tp else 0.0, tp / (tp + fp / 2 + fn / 2)))
    return [*np.mean(rows, axis=0).tolist(), len(rows)] if rows else [0.0, 0.0, 0.0, 0]


def assert_equals_oracle(result: PanopticResult, counts: Counts) -> None:
    for row in result.categories:
        iou, *numbers = counts.get(row.category_id, [0.0, 0, 0, 0])
        assert [row.tp, row.fp, row.fn] == numbers
        assert row.sq / 100 == pytest.approx(iou / row.tp if row.tp else 0.0, rel=1e-12, abs=1e-12)
    for group, is_thing in ((result.all, (True, False)), (result.things, (True,)), (result.stuff, (False,))):
        means = [group.pq / 100, group.sq / 100, group.rq / 100, group.n]
        assert means == pytest.approx(oracle_means(counts, is_thing), rel=1e-12, abs=1e-12)


def build_pair(layout: np.ndarray, noise: np.ndarray, choices: Callable[[int], int]) -> Pair:
    """Return a ground truth with the regions of `layout` (0 is void), and a prediction that differs where `noise` > 0.

    Args:
        choices: choices(n) returns any number in 0 .. n - 1.
    """
    category_ids = [category.id for category in TABLE.categories]
    big = 1 + choices(256**3 - 16)  # ids different from the indices
    truth_of = {i: category_ids[choices(4)] for i in range(1, 8)}
    guess_of = {i: truth_of[i] if choices(5) else category_ids[choices(4)] for i in truth_of}
    predicted_layout = np.where(noise > 0, noise - 1, layout)
    truth_ids, guess_ids = (
        np.where(layout > 0, layout + big, 0),
        np.where(predicted_layout > 0, 8 - predicted_layout + big, 0),
    )
    present, guessed = (
        np.unique(layout[layout > 0]).tolist(),
        np.unique(predicted_layout[predicted_layout > 0]).tolist(),
    )
    random.Random(choices(1000)).shuffle(present)
    crowd = tuple(i + big for i in present if choices(3) == 0)
    truth = panoptic(truth_ids, {i + big: truth_of[i] for i in present}, crowd)
    wrong = [replace(row, area=max(1, row.area + choices(5) - 2)) if choices(3) == 0 else row for row in truth.segments]
    return panoptic(guess_ids, {8 - i + big: guess_of[i] for i in guessed}), replace(truth, segments=tuple(wrong))


def seeded_pairs(count: int, seed: int = 0) -> list[Pair]:
    generator = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        layout = np.kron(generator.integers(0, 8, (2, 3)), np.ones((3, 4), dtype=int))
        noise = np.where(generator.random(layout.shape) < 0.15, generator.integers(0, 9, layout.shape), 0)
        pairs.append(build_pair(layout, noise, lambda n: int(generator.integers(n))))
    return pairs


@st.composite
def drawn_pairs(draw: st.DrawFn) -> Pair:
    blocks = draw(hnp.arrays(np.int64, st.tuples(st.integers(1, 2), st.integers(1, 3)), elements=st.integers(0, 7)))
    layout = np.kron(blocks, np.ones((2, 4), dtype=int))
    noise = draw(hnp.arrays(np.int64, layout.shape, elements=st.integers(0, 8), fill=st.just(0)))
    return build_pair(layout, noise, lambda n: draw(st.integers(0, n - 1)))


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.lists(drawn_pairs(), min_size=1, max_size=2))
def test_equals_the_plain_loop(pairs: list[Pair]) -> None:
    assert_equals_oracle(measure(*pairs), oracle(pairs))


def test_equals_the_plain_loop_on_maps_with_every_case() -> None:
    pairs = seeded_pairs(200)
    counts = oracle(pairs)
    assert_equals_oracle(measure(*pairs), counts)
    assert all(min(row[1:]) > 5 for row in counts.values()) and len(counts) == 4
    plain = [(prediction, replace(truth, segments=_without_crowd(truth))) for prediction, truth in pairs]
    assert oracle(plain) != counts  # crowds mattered


def _without_crowd(truth: PanopticMap) -> tuple[Segment, ...]:
    return tuple(replace(segment, is_crowd=False) for segment in truth.segments)


@pytest.mark.slow
def test_equals_panopticapi(tmp_path: Path) -> None:
    evaluation = pytest.importorskip("panopticapi.evaluation", reason="needs panopticapi for comparison")
    image_file = pytest.importorskip("PIL.Image", reason="panopticapi reads its files with Pillow, which is missing")
    pairs = seeded_pairs(60, seed=1)
    folders = [tmp_path / "prediction", tmp_path / "truth"]
    rows: list[list[dict[str, object]]] = [[], []]
    for number, pair in enumerate(pairs):
        for side, item in enumerate(pair):
            folders[side].mkdir(exist_ok=True)
            colors = np.stack([item.ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)
            image_file.fromarray(colors).save(folders[side] / f"{number}.png")
            segments = [{**asdict(segment), "iscrowd": int(segment.is_crowd)} for segment in item.segments]
            rows[side].append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
    categories = {row["id"]: row for row in TABLE.to_coco()}
    annotations = list(zip(rows[1], rows[0], strict=True))
    statistics = evaluation.pq_compute_single_core(0, annotations, str(folders[1]), str(folders[0]), categories)
    result = measure(*pairs)
    for group, is_thing in ((result.all, None), (result.things, True), (result.stuff, False)):
        means, by_category = statistics.pq_average(categories, is_thing)
        results = {"pq": group.pq / 100, "sq": group.sq / 100, "rq": group.rq / 100, "n": group.n}
        assert results == pytest.approx(means, rel=1e-12, abs=1e-12)
        for row in result.categories:
            if is_thing is None:
                results = {"pq": row.pq / 100, "sq": row.sq / 100, "rq": row.rq / 100}
                assert results == pytest.approx(by_category[row.category_id], rel=1e-12, abs=1e-12)


# --- several processes


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_any_number_of_processes_gives_identical_results(processes: int) -> None:
    pairs = seeded_pairs(90, seed=2)
    whole = measure(*pairs)
    assert whole.all.n == 4
    parts = []
    for rank in range(processes):
        parts.append(PanopticQuality(TABLE))
        for prediction, truth in reversed(pairs[rank::processes]):
            parts[-1].update(compare(prediction, truth))
    merged = PanopticQuality(TABLE)
    for part in parts:
        merged.merge(part)
    assert merged.result() == whole


def test_the_iou_sum_is_exact() -> None:
    truth = panoptic([[1] * 7 + [2] * 9], {1: DOG, 2: DOG})
    guess = panoptic([[1] * 5 + [0] * 2 + [2] * 7 + [0] * 2], {1: DOG, 2: DOG})
    quality = PanopticQuality(TABLE)
    for _ in range(1000):
        quality.update(compare(guess, truth))
    row = quality.result().categories[TABLE.label(DOG)]
    assert row.sq == 100 * (float(1000 * (Fraction(5 / 7) + Fraction(7 / 9))) / 2000)  # rounded only once
    assert (row.tp, row.fp, row.fn) == (2000, 0, 0)


# --- errors


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (panoptic([[1]], {1: DOG}), panoptic([[1, 1]], {1: DOG}), r"prediction is 1 x 1 and the ground truth 1 x 2"),
        (panoptic([[1, 4]], {1: DOG}), panoptic([[1, 1]], {1: DOG}), r"prediction: the map contains ids 4, which"),
        (panoptic([[-3, 1]], {1: DOG}), panoptic([[1, 1]], {1: DOG}), r"prediction: the map contains ids -3, which"),
        (panoptic([[1, 1]], {1: DOG, 3: CAT}), panoptic([[1, 1]], {1: DOG}), r"segments \[3\] have no pixels"),
        (panoptic([[1, 1]], {1: 99}), panoptic([[1, 1]], {1: DOG}), r"prediction: categories \[99\] are unknown"),
        (panoptic([[1, 1]], {1: DOG}), panoptic([[1, 1]], {1: 98}), r"ground truth: categories \[98\] are unknown"),
        (panoptic([[0, 1]], {0: SKY, 1: DOG}), panoptic([[1, 1]], {1: DOG}), r"ids are \[0, 1\]; expected unique ids"),
        (
            panoptic([[1, 1]], {1: DOG}),
            panoptic([[1, 1]], {1: DOG}, areas={1: 0}),
            r"ground truth: the listed areas of segments \[1\]",
        ),
    ],
)
def test_invalid_maps(prediction: PanopticMap, truth: PanopticMap, message: str) -> None:
    quality = PanopticQuality(TABLE)
    with pytest.raises(DataError, match=rf"^a\.png.*{message}"):
        quality.update(compare(prediction, truth, file_name="a.png"))
    assert quality.result() == PanopticQuality(TABLE).result()


def test_repeated_ids_are_an_error() -> None:
    once = panoptic([[1, 1]], {1: DOG})
    with pytest.raises(DataError, match=r"ids are \[1, 1\]"):
        compare(once, replace(once, segments=once.segments * 2))


def test_different_category_tables_cannot_be_merged() -> None:
    other = CategoryTable(TABLE.categories[:2])
    with pytest.raises(DataError, match="different category tables"):
        PanopticQuality(TABLE).merge(PanopticQuality(other))


# --- real data


def test_real_ground_truth_predicts_itself(shared: Path) -> None:
    coco_panoptic = pytest.importorskip("panformer_cli.data.coco.coco_panoptic")
    data = coco_panoptic.CocoPanoptic(shared / "data" / "coco_mini", "val2017")
    quality = PanopticQuality(data.categories)
    for number in range(len(data)):
        truth = data.annotation(number)
        kept = tuple(segment for segment in truth.segments if not segment.is_crowd)
        ids = np.where(np.isin(truth.ids, [segment.id for segment in kept]), truth.ids, 0)
        quality.update(compare(PanopticMap(ids, kept), truth))
    result = quality.result()
    assert [group.pq for group in (result.all, result.things, result.stuff)] == [100.0, 100.0, 100.0]
    assert sum(row.tp for row in result.categories) == 85  # 88 segments, 3 of them crowd
    assert (len(data), result.all.n) == (5, 32)
