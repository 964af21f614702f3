"""Bootstrap intervals, compared with repeated counting of images and with a population of known PQ."""

from __future__ import annotations

import math
import pickle
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
    Resamples,
    image_draws,
    image_quality,
    image_sums,
    paired_intervals,
    quality_intervals,
)
from panformer_cli.metrics.image_overlap import FloatArray, ImageOverlap, compare
from panformer_cli.metrics.matching import Matching, match_segments
from panformer_cli.metrics.quality import PanopticQuality, PanopticResult
from tests.models.panoptic_segformer.small import table

TABLE = table(things=3, stuff=2)


def record_of(seed: int, image_id: int | str, noise: float = 0.3) -> ImageOverlap:
    """Return a small image of random blocks, some predicted as another class, with a crowd and void."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 5, (4, 4))
    predicted = np.where(rng.random((4, 4)) < noise, rng.integers(0, 5, (4, 4)), blocks)
    ids = [table(3, 2).by_label(label).id for label in rng.integers(0, 5, 5).tolist()]
    truth, prediction = _map(blocks, ids, crowd=2), _map(predicted, [*ids[:3], 10, ids[4]])
    return compare(prediction, truth, image_id, f"{image_id}.jpg")


def _map(blocks: np.ndarray, categories: list[int], crowd: int | None = None) -> PanopticMap:
    drawn = np.kron(blocks, np.ones((3, 5), int)).astype(np.int32)
    rows = [Segment(n, categories[n], int((drawn == n).sum()), (0, 0, 0, 0), n == crowd) for n in range(1, 5)]
    return PanopticMap(drawn, tuple(row for row in rows if row.area))


def resamples_of(records: list[ImageOverlap], resamples: int = 1000, seed: int = 0) -> Resamples:
    counted = Resamples(TABLE, resamples, seed)
    for record in records:
        counted.add(record.image_id, match_segments(record, TABLE))
    return counted


def means_of(result: PanopticResult) -> list[list[float]]:
    return [[getattr(getattr(result, group), name) for name in FIGURES] for group in GROUPS]


def plainly(records: list[ImageOverlap], resamples: int, seed: int) -> FloatArray:
    """Count each image as often as it is drawn; empty resamples are left out."""
    rows = []
    for draws in np.transpose([image_draws(record.image_id, resamples, seed) for record in records]).tolist():
        quality = PanopticQuality(TABLE)
        for record, times in zip(records, draws, strict=True):
            for _ in range(times):
                quality.update(record)
        if any(draws):
            rows.append(means_of(quality.result()))
    return np.array(rows)


@pytest.mark.parametrize("at_once", [100, 2])
def test_a_resample_equals_counting_its_images(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(bootstrap, "_AT_ONCE", at_once)
    records = [record_of(seed, seed) for seed in range(25)]
    found = resamples_of(records, 7, 3).quality()
    np.testing.assert_allclose(found, plainly(records, 7, 3), rtol=1e-12)
    assert len(np.unique(found[:, 0, 0])) == 7


def test_draws_are_poisson_with_mean_1_and_depend_on_the_image() -> None:
    ids: list[int | str] = [*range(300), *(str(number) for number in range(300))]
    draws = np.stack([image_draws(image_id, 400, seed=2) for image_id in ids])
    shares = np.bincount(draws.ravel())[:5] / draws.size
    # The standard deviation of a fraction of 240,000 draws is at most 0.001; of a correlation of two images, 0.05.
    assert shares == pytest.approx([math.exp(-1) / math.factorial(times) for times in range(5)], abs=0.005)
    correlations = np.asarray(np.corrcoef(draws))[np.triu_indices(len(ids), 1)]
    assert abs(correlations).max() < 0.3
    assert correlations.std() == pytest.approx(0.05, abs=0.005)
    assert np.array_equal(image_draws("7", 400, 2), draws[307])
    assert not np.array_equal(image_draws(7, 400, 3), draws[7])


def test_the_interval_contains_the_middle_95_percent() -> None:
    records = [record_of(seed, seed) for seed in range(8)]
    values = np.sort(plainly(records, 41, 0), axis=0)
    intervals = quality_intervals(resamples_of(records, 41))
    for group, rows in zip(GROUPS, values.transpose(1, 2, 0), strict=True):
        for name, row in zip(FIGURES, rows, strict=True):
            ends = getattr(getattr(intervals, group), name)
            assert ends == pytest.approx((row[1], row[39]))  # the 2nd and the second to last of 41 values
            assert intervals.to_json()[group][name] == list(ends)


def test_order_and_merging_do_not_matter() -> None:
    names: list[int | str] = [5, "b", 40, "a", 7, 6]
    records = [record_of(seed, name) for seed, name in enumerate(names)]
    together = resamples_of(records, 20, 1)
    one, other = resamples_of(records[3:], 20, 1), resamples_of(records[2::-1], 20, 1)
    one.merge(other)
    assert (together.images, one.images) == (6, 6)
    assert np.array_equal(together.quality(), one.quality())
    assert quality_intervals(together) == quality_intervals(one)
    assert quality_intervals(together) != quality_intervals(resamples_of(records, 20, 2))


def test_memory_does_not_grow_with_the_images() -> None:
    few, many = (resamples_of([record_of(seed, seed) for seed in range(count)], 10) for count in (1, 30))
    assert len(pickle.dumps(few)) == pytest.approx(len(pickle.dumps(many)), abs=20)


def test_the_sums_of_images_add_up_to_pq() -> None:
    records = [record_of(seed, seed) for seed in range(12)]
    quality = PanopticQuality(TABLE)
    for record in records:
        quality.update(record)
    sums = np.sum([image_sums(match_segments(record, TABLE), len(TABLE)) for record in records], axis=0)
    assert bootstrap.group_quality(sums[:, :, None], TABLE)[0].tolist() == [
        pytest.approx(row, rel=1e-12) for row in means_of(quality.result())
    ]
    assert quality.result().all.n == 5, "every class counts"


def test_the_quality_of_each_image() -> None:
    for seed in range(6):
        record, quality = record_of(seed, seed), PanopticQuality(TABLE)
        quality.update(record)
        found = image_quality(match_segments(record, TABLE), TABLE)
        assert found == pytest.approx(quality.result().all.pq, rel=1e-12)


@pytest.mark.slow
def test_two_sets_share_their_draws() -> None:
    worse, better = ([record_of(seed, seed, noise) for seed in range(30)] for noise in (0.4, 0.2))
    one, other = resamples_of(worse, 40, 5), resamples_of(better, 40, 5)
    paired = paired_intervals(one, other)
    differences = plainly(better, 40, 5) - plainly(worse, 40, 5)
    low, high = np.percentile(differences[:, 0, 0], [2.5, 97.5])
    assert paired.difference.all.pq == pytest.approx((low, high))
    assert paired.better == {group: (differences[:, n, 0] > 0).mean() for n, group in enumerate(GROUPS)}
    assert paired.first == quality_intervals(one)
    assert paired.second == quality_intervals(other)


def test_a_set_does_not_differ_from_itself() -> None:
    counted = resamples_of([record_of(seed, seed) for seed in range(5)], 10)
    paired = paired_intervals(counted, counted)
    assert {ends for group in paired.difference.to_json().values() for row in group.values() for ends in row} == {0.0}
    assert paired.better == dict.fromkeys(GROUPS, 0.0)


def test_images_without_segments_are_drawn_too() -> None:
    empty = PanopticMap(np.zeros((2, 2), np.int32), ())
    records = [compare(empty, empty, 1), record_of(0, 2)]
    alone = [image_quality(match_segments(record, TABLE), TABLE) for record in records]
    assert alone[0] == 0 < alone[1]
    # A resample contains only the empty image, which has no category, or the other one at least once.
    assert sorted(set(resamples_of(records, 50).quality()[:, 0, 0].tolist())) == pytest.approx(alone)


def test_empty_resamples_are_left_out() -> None:
    record = record_of(0, 1)
    counted = resamples_of([record], 200)
    assert len(counted.quality()) == int((image_draws(1, 200, 0) > 0).sum()) < 150
    pq = image_quality(match_segments(record, TABLE), TABLE)
    assert quality_intervals(counted).all.pq == pytest.approx((pq, pq), rel=1e-12)


SIZE, TRIALS = 150, 150


def _population_image(rng: np.random.Generator) -> Matching:
    """Return an image with one segment of each of some classes; the fraction found varies between images."""
    labels = np.flatnonzero(rng.random(len(TABLE)) < 0.5)
    found = rng.random(len(labels)) < rng.beta(2, 1)
    iou = rng.uniform(0.5, 1, int(found.sum()))
    matched, nothing = np.flatnonzero(found), np.zeros(0, np.int64)
    return Matching(labels, labels, matched, matched, iou, np.flatnonzero(~found), nothing, nothing)


@pytest.mark.slow
def test_about_95_of_100_intervals_contain_the_true_value() -> None:
    # 2/3 of the segments are found, the others missed: SQ = 3/4, RQ = 2/3 / (2/3 + 1/3 / 2) = 4/5, PQ = 60 %.
    rng = np.random.default_rng(0)
    contained = 0
    for trial in range(TRIALS):
        counted = Resamples(TABLE, 300, trial)
        for number in range(SIZE):
            counted.add(number, _population_image(rng))
        low, high = quality_intervals(counted).all.pq
        contained += low <= 60 <= high
    # 95 % of 150 is 142.5, with a standard deviation of 2.7.
    assert 133 <= contained <= 149


def test_invalid_resamples() -> None:
    counted = resamples_of([record_of(0, 1)])
    with pytest.raises(DataError, match="different category tables"):
        counted.merge(Resamples(CategoryTable([replace(row, name="x") for row in TABLE.categories])))
    with pytest.raises(DataError, match="1000 resamples of 0 images contain no image"):
        quality_intervals(Resamples(TABLE))
    with pytest.raises(DataError, match="0 resamples of 1 image"):
        quality_intervals(resamples_of([record_of(0, 1)], 0))
    with pytest.raises(DataError, match="differ in their images"):
        paired_intervals(counted, resamples_of([record_of(0, 2)]))
