"""Intervals against records that are plainly counted again and again, and against a population whose PQ is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.errors import DataError
from panformer_cli.metrics import bootstrap
from panformer_cli.metrics.bootstrap import (
    FIGURES,
    GROUPS,
    ImageCounts,
    image_quality,
    paired_intervals,
    quality_intervals,
    resampled_quality,
)
from panformer_cli.metrics.matching import Matching
from panformer_cli.metrics.quality import PanopticQuality, PanopticResult
from panformer_cli.metrics.records import FloatArray, ImageRecord, compare
from tests.models.small import table

TABLE = table(things=3, stuff=2)


def record_of(seed: int, image_id: int | str, noise: float = 0.3) -> ImageRecord:
    """A small image of random blocks, some of which the prediction takes for another class, with a crowd and void."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 5, (4, 4))
    guessed = np.where(rng.random((4, 4)) < noise, rng.integers(0, 5, (4, 4)), blocks)
    ids = [table(3, 2).by_label(label).id for label in rng.integers(0, 5, 5).tolist()]
    truth, prediction = _map(blocks, ids, crowd=2), _map(guessed, [*ids[:3], 10, ids[4]])
    return compare(prediction, truth, image_id, f"{image_id}.jpg")


def _map(blocks: np.ndarray, categories: list[int], crowd: int | None = None) -> PanopticMap:
    drawn = np.kron(blocks, np.ones((3, 5), int)).astype(np.int32)
    rows = [Segment(n, categories[n], int((drawn == n).sum()), (0, 0, 0, 0), n == crowd) for n in range(1, 5)]
    return PanopticMap(drawn, tuple(row for row in rows if row.area))


def counts_of(records: list[ImageRecord]) -> ImageCounts:
    counts = ImageCounts(TABLE)
    for record in records:
        counts.update(record)
    return counts


def figures_of(result: PanopticResult) -> list[list[float]]:
    return [[getattr(getattr(result, group), name) for name in FIGURES] for group in GROUPS]


def plainly(records: list[ImageRecord], resamples: int, seed: int) -> FloatArray:
    """The same draws, each image counted as often as it was drawn."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(resamples):
        quality = PanopticQuality(TABLE)
        for place in random.integers(len(records), size=len(records)).tolist():
            quality.update(records[place])
        rows.append(figures_of(quality.result()))
    return np.array(rows)


@pytest.mark.parametrize("draws_at_once", [2**22, 50])
def test_a_resample_is_its_images_counted_again(monkeypatch: pytest.MonkeyPatch, draws_at_once: int) -> None:
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", draws_at_once)  # 50: two resamples at a time, and one is left
    records = [record_of(seed, seed) for seed in range(25)]
    found = resampled_quality(counts_of(records), resamples=7, seed=3)
    np.testing.assert_allclose(found, plainly(records, 7, 3), rtol=1e-12)
    assert len(np.unique(found[:, 0, 0])) == 7


def test_the_interval_holds_the_middle_95_percent() -> None:
    records = [record_of(seed, seed) for seed in range(8)]
    values = np.sort(plainly(records, 41, 0), axis=0)
    intervals = quality_intervals(counts_of(records), resamples=41)
    for group, rows in zip(GROUPS, values.transpose(1, 2, 0), strict=True):
        for name, row in zip(FIGURES, rows, strict=True):
            ends = getattr(getattr(intervals, group), name)
            assert ends == pytest.approx((row[1], row[39]))  # of 41 values the 2nd and the last but one
            assert intervals.to_json()[group][name] == list(ends)


def test_neither_order_nor_parts_matter() -> None:
    names: list[int | str] = [5, "b", 40, "a", 7, 6]
    records = [record_of(seed, name) for seed, name in enumerate(names)]
    together = counts_of(records)
    one, other = counts_of(records[3:]), counts_of(records[:3])
    one.merge(other)
    assert together.images() == one.images() == [5, 6, 7, 40, "a", "b"]
    assert np.array_equal(together.table().toarray(), one.table().toarray())
    assert quality_intervals(together, 20, seed=1) == quality_intervals(one, 20, seed=1)
    assert quality_intervals(together, 20, seed=1) != quality_intervals(one, 20, seed=2)


def test_the_table_adds_up_to_pq() -> None:
    records = [record_of(seed, seed) for seed in range(12)]
    quality = PanopticQuality(TABLE)
    for record in records:
        quality.update(record)
    sums = counts_of(records).table().sum(axis=0).reshape(4, len(TABLE), 1)
    assert bootstrap.group_quality(sums, TABLE)[0].tolist() == [
        pytest.approx(row, rel=1e-12) for row in figures_of(quality.result())
    ]
    assert quality.result().all.n == 5, "every class takes part"


def test_the_quality_of_each_image() -> None:
    records = [record_of(seed, 50 - seed) for seed in range(6)]
    expected = []
    for record in reversed(records):
        quality = PanopticQuality(TABLE)
        quality.update(record)
        expected.append(quality.result().all.pq)
    assert image_quality(counts_of(records)).tolist() == pytest.approx(expected, rel=1e-12)


def test_two_sets_are_drawn_alike() -> None:
    worse, better = ([record_of(seed, seed, noise) for seed in range(30)] for noise in (0.4, 0.2))
    paired = paired_intervals(counts_of(worse), counts_of(better), resamples=40, seed=5)
    differences = plainly(better, 40, 5) - plainly(worse, 40, 5)
    low, high = np.percentile(differences[:, 0, 0], [2.5, 97.5])
    assert paired.difference.all.pq == pytest.approx((low, high))
    assert paired.better == {group: (differences[:, n, 0] > 0).mean() for n, group in enumerate(GROUPS)}
    assert paired.first == quality_intervals(counts_of(worse), 40, 5)
    assert paired.second == quality_intervals(counts_of(better), 40, 5)


def test_a_set_does_not_differ_from_itself() -> None:
    counts = counts_of([record_of(seed, seed) for seed in range(5)])
    paired = paired_intervals(counts, counts, resamples=10)
    assert {ends for group in paired.difference.to_json().values() for row in group.values() for ends in row} == {0.0}
    assert paired.better == dict.fromkeys(GROUPS, 0.0)


def test_images_without_any_segment_are_drawn_too() -> None:
    empty = PanopticMap(np.zeros((2, 2), np.int32), ())
    counts = counts_of([compare(empty, empty, 1), record_of(0, 2)])
    alone = image_quality(counts).tolist()
    assert alone[0] == 0 < alone[1]
    # Drawn are the empty image twice, which has no category at all, or the other one at least once.
    assert sorted(set(resampled_quality(counts, 50, 0)[:, 0, 0].tolist())) == pytest.approx(alone)


SIZE, TRIALS = 150, 150


def _population_image(rng: np.random.Generator) -> Matching:
    """An image with one segment of each of some classes; how many are found differs from image to image."""
    labels = np.flatnonzero(rng.random(len(TABLE)) < 0.5)
    found = rng.random(len(labels)) < rng.beta(2, 1)
    iou = rng.uniform(0.5, 1, int(found.sum()))
    matched, nothing = np.flatnonzero(found), np.zeros(0, np.int64)
    return Matching(labels, labels, matched, matched, iou, np.flatnonzero(~found), nothing, nothing)


@pytest.mark.slow
def test_about_95_of_100_intervals_hold_the_true_value() -> None:
    # Found are 2/3 of the segments, the rest is missed: SQ = 3/4, RQ = 2/3 / (2/3 + 1/3 / 2) = 4/5, PQ = 60 %.
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(TRIALS):
        counts = ImageCounts(TABLE)
        for place in range(SIZE):
            counts.add(place, _population_image(rng))
        low, high = quality_intervals(counts, 300, trial).all.pq
        held += low <= 60 <= high
    # 95 % of 150 are 142.5, and the standard deviation of such a count is 2.7.
    assert 133 <= held <= 149


def test_what_cannot_be_drawn() -> None:
    counts = counts_of([record_of(0, 1)])
    with pytest.raises(DataError, match="image 1 was counted before"):
        counts.update(record_of(3, 1))
    with pytest.raises(DataError, match="image 1 was counted before"):
        counts.merge(counts_of([record_of(3, 1)]))
    with pytest.raises(DataError, match="different category tables"):
        counts.merge(ImageCounts(CategoryTable([replace(row, name="x") for row in TABLE.categories])))
    with pytest.raises(DataError, match="1000 resamples of 0 images were asked for"):
        quality_intervals(ImageCounts(TABLE))
    with pytest.raises(DataError, match="0 resamples of 1 images"):
        quality_intervals(counts, 0)
    with pytest.raises(DataError, match="differ in their images"):
        paired_intervals(counts, counts_of([record_of(0, 2)]))
