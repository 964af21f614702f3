"""Predictions on disk: files, image overlaps, and identical results from any number of processes."""

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


def test_the_files_of_an_evaluation(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data")
    metrics = evaluate_predictions(request_of(pairs, tmp_path / "out"), ALONE, QUIET)
    assert set(contents(tmp_path / "out")) == {"metrics.json", "analysis.json", "records.jsonl"}
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    assert metrics["annotation"] == str(pairs.truth.json)
    assert metrics["predictions"] == str(pairs.prediction.json)
    assert (metrics["truth_pngs"], metrics["predicted_pngs"]) == (str(pairs.truth.pngs), str(pairs.prediction.pngs))
    analysis = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert analysis["causes"]["all"]["total"] == pytest.approx(100 - metrics["panoptic"]["all"]["pq"], abs=1e-9)
    low, high = metrics["intervals"]["things"]["pq"]
    ious = [100 * true_iou(number)[0] for number in range(3)]
    assert min(ious) <= low <= metrics["panoptic"]["things"]["pq"] <= high <= max(ious)


def test_overlaps_are_in_the_order_of_the_images(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data")
    evaluate_predictions(request_of(pairs, tmp_path / "out"), ALONE, QUIET)
    lines = (tmp_path / "out" / "records.jsonl").read_text().splitlines()
    overlaps = [ImageOverlap.from_json(json.loads(line)) for line in lines]
    assert [(overlap.image_id, overlap.file_name) for overlap in overlaps] == [(100 + k, f"{k}.jpg") for k in range(3)]
    for number, overlap in enumerate(overlaps):
        assert overlap.size == (40, 60)
        assert overlap.predicted_pixels.tolist() == [1200 - 10 * (20 + number), 10 * (20 + number)]
        assert [segment.score for segment in overlap.predictions] == [0.5, 1.0]
        assert int(overlap.overlap.sum()) == 40 * 60


@pytest.mark.slow
def test_metrics_match_a_plain_loop_on_maps_with_every_case(tmp_path: Path) -> None:
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


def test_metrics_do_not_depend_on_the_order_of_the_images(tmp_path: Path) -> None:
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


def test_a_failure_keeps_earlier_results(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data", 2)
    evaluate_predictions(request_of(pairs, tmp_path / "out"), ALONE, QUIET)
    before = contents(tmp_path / "out")
    pairs.prediction.png(1).unlink()
    with pytest.raises(PanformerError, match=r"1\.png is missing") as caught:
        evaluate_predictions(request_of(pairs, tmp_path / "out"), ALONE, QUIET)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path / "out") == before


def test_results_are_not_written_into_a_run_or_a_file(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data", 1)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(PanformerError, match="is a file; expected a folder"):
        evaluate_predictions(request_of(pairs, tmp_path / "out"), ALONE, QUIET)


def test_the_log_of_an_interrupted_model_evaluation_is_kept(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data", 1)
    kept = tmp_path / "out" / ".parts" / "0.jsonl"
    kept.parent.mkdir(parents=True)
    kept.write_text('{"index": 0}\n')
    evaluate_predictions(request_of(pairs, tmp_path / "out"), ALONE, QUIET)
    assert kept.read_text() == '{"index": 0}\n'
