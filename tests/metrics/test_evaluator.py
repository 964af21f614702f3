"""All figures at once: those of the parts, in any order and from any division of the images."""

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


def tally_of(records: list[ImageOverlap], metrics: tuple[MetricName, ...] = METRICS, resamples: int = 0) -> Evaluator:
    evaluator = Evaluator(TABLE, metrics, resamples)
    for record in records:
        evaluator.add(record)
    return evaluator


def everything(evaluator: Evaluator) -> str:
    return json.dumps([evaluator.figures(), evaluator.analysis.to_json()])


def test_panoptic_figures_are_those_of_the_plain_loop() -> None:
    figures = tally_of(RECORDS).figures()
    counts = oracle(PAIRS)
    assert figures["images"] == 30
    for group, is_thing in (("all", (True, False)), ("things", (True,)), ("stuff", (False,))):
        row = figures["panoptic"][group]
        assert [row["pq"] / 100, row["sq"] / 100, row["rq"] / 100, row["n"]] == pytest.approx(
            oracle_means(counts, is_thing), rel=0, abs=1e-12
        )
    for category_id, row in figures["panoptic"]["per_class"].items():
        assert [row["tp"], row["fp"], row["fn"]] == counts[int(category_id)][1:]


def test_every_segment_has_one_size() -> None:
    figures = tally_of(RECORDS).figures()["panoptic"]
    for name in ("tp", "fp", "fn"):
        total = sum(row[name] for row in figures["per_class"].values())
        assert total == sum(counts[1 + ("tp", "fp", "fn").index(name)] for counts in oracle(PAIRS).values())
    assert set(figures["sizes"]) == {"small", "medium", "large"}
    assert figures["sizes"]["small"]["all"]["pq"] == pytest.approx(figures["all"]["pq"])  # the maps are tiny


@pytest.mark.parametrize("processes", [2, 3, 7, 40])
def test_any_division_of_the_images_gives_the_same_digits(processes: int) -> None:
    whole = everything(tally_of(RECORDS, resamples=20))
    parts = [tally_of(RECORDS[rank::processes], resamples=20) for rank in range(processes)]
    total, *others = (pickle.loads(pickle.dumps(part)) for part in parts)  # as they travel
    for other in others:
        total.merge(other)
    assert everything(total) == whole
    assert everything(tally_of(RECORDS[::-1], resamples=20)) == whole


@pytest.mark.parametrize(
    ("metrics", "keys"),
    [
        (("panoptic",), set()),
        (("panoptic", "semantic"), {"semantic"}),
        (("panoptic", "boundary"), {"boundary"}),
        (("boundary",), {"boundary"}),
    ],
)
def test_only_what_was_asked_for_is_there(metrics: tuple[MetricName, ...], keys: set[str]) -> None:
    figures = tally_of(RECORDS[:3], metrics).figures()
    assert set(figures) == {"images", "panoptic", "disagreements", "categories", *keys}
    assert "intervals" in tally_of(RECORDS[:3], metrics, resamples=20).figures()


def test_boundary_pq_is_no_more_than_pq() -> None:
    figures = tally_of(RECORDS).figures()
    assert 0 < figures["boundary"]["all"]["pq"] <= figures["panoptic"]["all"]["pq"]


def test_nothing_counted_is_zeros_without_intervals() -> None:
    figures = tally_of([], resamples=100).figures()
    assert figures["images"] == 0
    assert figures["panoptic"]["all"] == {"pq": 0.0, "sq": 0.0, "rq": 0.0, "n": 0}
    assert figures["panoptic"]["per_class"] == {}
    assert "intervals" not in figures
    assert figures["disagreements"] == {"images": 0, "first": []}
    json.dumps(figures, allow_nan=False)


def contradictory(name: str) -> ImageOverlap:
    truth = panoptic([[1, 1, 0]], {1: DOG}, areas={1: 5})
    return compare(panoptic([[1, 1, 0]], {1: DOG}), truth, name, name)


def test_contradictions_are_counted_and_the_first_ones_named() -> None:
    names = [f"{number:02d}.jpg" for number in range(NAMED + 5)]
    alone = tally_of([contradictory(name) for name in reversed(names)], ("panoptic",))
    shared = tally_of([contradictory(name) for name in names[::2]], ("panoptic",))
    shared.merge(tally_of([contradictory(name) for name in names[1::2]], ("panoptic",)))
    phrase = "areas of segments 1 are not those of their pixels"
    expected: dict[str, Any] = {"images": NAMED + 5, "first": [[name, phrase] for name in names[:NAMED]]}
    assert alone.figures()["disagreements"] == shared.figures()["disagreements"] == expected


def test_an_image_counted_twice_is_refused() -> None:
    evaluator = tally_of(RECORDS[:2])
    evaluator.merge(tally_of(RECORDS[2:3]))
    assert evaluator.figures()["images"] == 3
    evaluator.merge(tally_of(RECORDS[1:2]))
    with pytest.raises(DataError, match="of 4 images some were counted twice"):
        evaluator.figures()


def test_memory_does_not_grow_with_the_images() -> None:
    few, many = tally_of(RECORDS[:20]), tally_of(RECORDS)
    grown = len(pickle.dumps(many)) - len(pickle.dumps(few))
    assert grown < 1000, "20 images are the worst ones; more of them add 8 bytes and rare new counts"


def test_an_unknown_category_names_the_image() -> None:
    segment = Segment(**{**asdict(RECORDS[0].predictions[0]), "category_id": 999})
    record = ImageOverlap(**{**vars(RECORDS[0]), "predictions": (segment, *RECORDS[0].predictions[1:])})
    with pytest.raises(DataError, match=r"00\.jpg, prediction: categories \[999\] are unknown"):
        tally_of([record])
