"""Predictions on disk: files, records, and the same digits from any number of processes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.evaluation.evaluate_predictions import PredictionsRequest, evaluate_predictions
from panformer_cli.errors import PanformerError
from panformer_cli.metrics.image_overlap import ImageOverlap
from panformer_cli.reporting import SilentReporter
from tests.data.coco.pair_files import Pairs, true_iou, write_pairs
from tests.engine.ranks import in_processes
from tests.engine.small import ALONE, StopAfter
from tests.metrics.test_cross_check import written
from tests.metrics.test_quality import TABLE, oracle, oracle_means, seeded_pairs

QUIET = SilentReporter()


def request_of(pairs: Pairs, out: Path) -> PredictionsRequest:
    return PredictionsRequest(
        pairs.prediction.json,
        pairs.truth.json,
        out,
        metrics=("panoptic", "boundary", "semantic"),
        resamples=50,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_left_behind(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data")
    figures = evaluate_predictions(request_of(pairs, tmp_path / "out"), ALONE, QUIET)
    assert set(contents(tmp_path / "out")) == {"metrics.json", "analysis.json", "records.jsonl"}
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == figures
    assert figures["annotation"] == str(pairs.truth.json)
    assert figures["predictions"] == str(pairs.prediction.json)
    assert (figures["truth_pngs"], figures["predicted_pngs"]) == (str(pairs.truth.pngs), str(pairs.prediction.pngs))
    analysis = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert analysis["causes"]["all"]["total"] == pytest.approx(100 - figures["panoptic"]["all"]["pq"], abs=1e-9)
    low, high = figures["intervals"]["things"]["pq"]
    ious = [100 * true_iou(number)[0] for number in range(3)]
    assert min(ious) <= low <= figures["panoptic"]["things"]["pq"] <= high <= max(ious)


def test_the_records_are_those_of_the_images_in_order(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data")
    evaluate_predictions(request_of(pairs, tmp_path / "out"), ALONE, QUIET)
    lines = (tmp_path / "out" / "records.jsonl").read_text().splitlines()
    records = [ImageOverlap.from_json(json.loads(line)) for line in lines]
    assert [(record.image_id, record.file_name) for record in records] == [(100 + k, f"{k}.jpg") for k in range(3)]
    for number, record in enumerate(records):
        assert record.size == (40, 60)
        assert record.predicted_pixels.tolist() == [1200 - 10 * (20 + number), 10 * (20 + number)]
        assert [segment.score for segment in record.predictions] == [0.5, 1.0]
        assert int(record.overlap.sum()) == 40 * 60


def test_equals_the_plain_loop_on_maps_that_hold_every_case(tmp_path: Path) -> None:
    made = seeded_pairs(60, seed=21)
    annotation, truth_pngs, predictions, predicted_pngs = written(made, tmp_path / "data")
    content = json.loads(annotation.read_text())
    content["images"] = [{"id": number, "file_name": f"{number}.jpg"} for number in range(60)]
    annotation.write_text(json.dumps(content))
    reporter = StopAfter()
    request = PredictionsRequest(predictions, annotation, tmp_path / "out", predicted_pngs, truth_pngs, resamples=0)
    panoptic = evaluate_predictions(request, ALONE, reporter)["panoptic"]
    counts = oracle(made)
    for group, is_thing in (("all", (True, False)), ("things", (True,)), ("stuff", (False,))):
        means = [panoptic[group]["pq"] / 100, panoptic[group]["sq"] / 100, panoptic[group]["rq"] / 100]
        assert means == pytest.approx(oracle_means(counts, is_thing)[:3], rel=0, abs=1e-12)
    for category in TABLE.categories:
        row = panoptic["per_class"][str(category.id)]
        assert [row["tp"], row["fp"], row["fn"]] == counts[category.id][1:]
    assert len(reporter.warnings) == 1  # wrong areas and unlisted ids are among the cases


def test_the_order_of_the_images_changes_no_digit(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data", 12)
    before = evaluate_predictions(request_of(pairs, tmp_path / "before"), ALONE, QUIET)
    for side in (pairs.truth, pairs.prediction):
        side.edit(lambda content: random.Random(3).shuffle(content["annotations"]))
    pairs.truth.edit(lambda content: content["images"].reverse())
    after = evaluate_predictions(request_of(pairs, tmp_path / "after"), ALONE, QUIET)
    assert after == before
    read = [(tmp_path / name / "analysis.json").read_bytes() for name in ("before", "after")]
    assert read[0] == read[1]


def warnings_of(process: Process, request: PredictionsRequest) -> tuple[dict[str, Any], list[str]]:
    """Return metrics and warnings of an evaluation."""
    reporter = StopAfter()
    return evaluate_predictions(request, process, reporter), reporter.warnings


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_bytes(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data", 10)
    pairs.truth.edit(lambda content: content["annotations"][4]["segments_info"][0].update(area=3))
    out, found, warnings = tmp_path / "out", [], []
    for processes in (1, 2, 3):
        ranks = in_processes(processes, warnings_of, request_of(pairs, out))
        assert ranks == processes * ranks[:1], "the result is equal on all ranks"
        found.append(contents(out))
        warnings.append(ranks[0][1])
    assert set(found[0]) == {"metrics.json", "analysis.json", "records.jsonl"}
    assert found[1] == found[0]
    assert found[2] == found[0]
    assert len(warnings[0]) == 1
    assert warnings == 3 * [warnings[0]]


def test_a_failure_leaves_what_was_there_before(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data", 2)
    evaluate_predictions(request_of(pairs, tmp_path / "out"), ALONE, QUIET)
    before = contents(tmp_path / "out")
    pairs.prediction.png(1).unlink()
    with pytest.raises(PanformerError, match=r"1\.png is missing") as caught:
        evaluate_predictions(request_of(pairs, tmp_path / "out"), ALONE, QUIET)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path / "out") == before


def test_a_run_is_no_place_for_figures(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data", 1)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(PanformerError, match="is a file; expected a folder"):
        evaluate_predictions(request_of(pairs, tmp_path / "out"), ALONE, QUIET)


def test_what_an_interrupted_evaluation_of_a_model_left_is_kept(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data", 1)
    kept = tmp_path / "out" / ".parts" / "0.jsonl"
    kept.parent.mkdir(parents=True)
    kept.write_text('{"index": 0}\n')
    evaluate_predictions(request_of(pairs, tmp_path / "out"), ALONE, QUIET)
    assert kept.read_text() == '{"index": 0}\n'
