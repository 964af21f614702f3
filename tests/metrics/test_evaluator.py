"""All metrics together: equal to those of the parts, for any order and division of the images."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict
from typing import Any

import pytest

from panformer_cli.data.structures import Segment
from panformer_cli.errors import DataError
from panformer_cli.metrics.boundary import with_boundaries
from panformer_cli.metrics.evaluator import NAMED, Evaluator, MetricName
from panformer_cli.metrics.image_overlap import ImageOverlap, compare
from tests.metrics.test_quality import DOG, TABLE, oracle, oracle_means, panoptic, seeded_pairs

METRICS: tuple[MetricName, ...] = ("panoptic", "boundary", "semantic")
PAIRS = seeded_pairs(30, seed=5)


def record_of(number: int) -> ImageOverlap:
    prediction, truth = PAIRS[number]
    return with_boundaries(compare(prediction, truth, number, f"{number:02d}.jpg"), prediction, truth)


RECORDS = [record_of(number) for number in range(len(PAIRS))]


def evaluate(records: list[ImageOverlap], metrics: tuple[MetricName, ...] = METRICS, resamples: int = 0) -> Evaluator:
    evaluator = Evaluator(TABLE, metrics, resamples)
    for record in records:
        evaluator.add(record)
    return evaluator


def everything(evaluator: Evaluator) -> str:
    return json.dumps([evaluator.results(), evaluator.analysis.to_json()])


def test_panoptic_metrics_equal_those_of_a_plain_loop() -> None:
    results = evaluate(RECORDS).results()
    counts = oracle(PAIRS)
    assert results["images"] == 30
    for group, is_thing in (("all", (True, False)), ("things", (True,)), ("stuff", (False,))):
        row = results["panoptic"][group]
        assert [row["pq"] / 100, row["sq"] / 100, row["rq"] / 100, row["n"]] == pytest.approx(
            oracle_means(counts, is_thing), rel=0, abs=1e-12
        )
    for category_id, row in results["panoptic"]["per_class"].items():
        assert [row["tp"], row["fp"], row["fn"]] == counts[int(category_id)][1:]


def test_every_segment_has_one_size() -> None:
    results = evaluate(RECORDS).results()["panoptic"]
    for name in ("tp", "fp", "fn"):
        total = sum(row[name] for row in results["per_class"].values())
        assert total == sum(counts[1 + ("tp", "fp", "fn").index(name)] for counts in oracle(PAIRS).values())
    assert set(results["sizes"]) == {"small", "medium", "large"}
    assert results["sizes"]["small"]["all"]["pq"] == pytest.approx(results["all"]["pq"])  # the maps are tiny


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3, 7, 40])
def test_any_division_of_the_images_gives_identical_results(processes: int) -> None:
    whole = everything(evaluate(RECORDS, resamples=20))
    parts = [evaluate(RECORDS[rank::processes], resamples=20) for rank in range(processes)]
    total, *others = (pickle.loads(pickle.dumps(part)) for part in parts)  # as they are sent between processes
    for other in others:
        total.merge(other)
    assert everything(total) == whole
    assert everything(evaluate(RECORDS[::-1], resamples=20)) == whole


@pytest.mark.parametrize(
    ("metrics", "keys"),
    [
        (("panoptic",), set()),
        (("panoptic", "semantic"), {"semantic"}),
        (("panoptic", "boundary"), {"boundary"}),
        (("boundary",), {"boundary"}),
    ],
)
def test_the_results_contain_only_the_requested_metrics(metrics: tuple[MetricName, ...], keys: set[str]) -> None:
    results = evaluate(RECORDS[:3], metrics).results()
    assert set(results) == {"images", "panoptic", "coverage", "disagreements", "categories", *keys}
    assert "intervals" in evaluate(RECORDS[:3], metrics, resamples=20).results()


def test_boundary_pq_is_at_most_pq() -> None:
    results = evaluate(RECORDS).results()
    assert 0 < results["boundary"]["all"]["pq"] <= results["panoptic"]["all"]["pq"]


def test_without_images_the_results_are_zero_without_intervals() -> None:
    results = evaluate([], resamples=100).results()
    assert results["images"] == 0
    assert results["panoptic"]["all"] == {"pq": 0.0, "sq": 0.0, "rq": 0.0, "n": 0}
    assert results["panoptic"]["per_class"] == {}
    assert "intervals" not in results
    assert results["disagreements"] == {"images": 0, "first": []}
    json.dumps(results, allow_nan=False)


def inconsistent(name: str) -> ImageOverlap:
    truth = panoptic([[1, 1, 0]], {1: DOG}, areas={1: 5})
    return compare(panoptic([[1, 1, 0]], {1: DOG}), truth, name, name)


def test_inconsistent_images_are_counted_and_the_first_ones_listed() -> None:
    names = [f"{number:02d}.jpg" for number in range(NAMED + 5)]
    alone = evaluate([inconsistent(name) for name in reversed(names)], ("panoptic",))
    shared = evaluate([inconsistent(name) for name in names[::2]], ("panoptic",))
    shared.merge(evaluate([inconsistent(name) for name in names[1::2]], ("panoptic",)))
    phrase = "areas of segments 1 differ from their pixel counts"
    expected: dict[str, Any] = {"images": NAMED + 5, "first": [[name, phrase] for name in names[:NAMED]]}
    assert alone.results()["disagreements"] == shared.results()["disagreements"] == expected


def test_an_image_added_twice_is_an_error() -> None:
    evaluator = evaluate(RECORDS[:2])
    evaluator.merge(evaluate(RECORDS[2:3]))
    assert evaluator.results()["images"] == 3
    evaluator.merge(evaluate(RECORDS[1:2]))
    with pytest.raises(DataError, match="some of 4 images were added twice"):
        evaluator.results()


def test_memory_does_not_grow_with_the_images() -> None:
    few, many = evaluate(RECORDS[:20]), evaluate(RECORDS)
    grown = len(pickle.dumps(many)) - len(pickle.dumps(few))
    assert grown < 1000, "the worst 20 images are kept; others add 8 bytes and a few new counts"


def test_an_unknown_category_names_the_image() -> None:
    segment = Segment(**{**asdict(RECORDS[0].predictions[0]), "category_id": 999})
    record = ImageOverlap(**{**vars(RECORDS[0]), "predictions": (segment, *RECORDS[0].predictions[1:])})
    with pytest.raises(DataError, match=r"00\.jpg, prediction: categories \[999\] are unknown"):
        evaluate([record])
