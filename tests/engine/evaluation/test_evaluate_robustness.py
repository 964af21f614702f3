"""PQ of a checkpoint under corruptions: compared with a plain evaluation, and resuming."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.corruptions import corrupt
from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.evaluation.evaluate import EvaluateRequest, evaluate
from panformer_cli.engine.evaluation.evaluate_robustness import RobustnessRequest, evaluate_robustness
from panformer_cli.engine.evaluation.robustness import RobustnessOptions, parse_corruptions, parse_severities
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.runs import RunFolder
from panformer_cli.errors import PanformerError
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.metrics.quality import PanopticQuality
from panformer_cli.reporting import SilentReporter
from tests.engine.ranks import in_processes
from tests.engine.small import ALONE
from tests.engine.test_predict import batches_seen

QUIET = SilentReporter()


def request_of(trained: RunFolder, out: Path, corruptions: str, severity: str, **how: Any) -> RobustnessRequest:
    options = {"images": None, "seed": 3, **how}
    chosen = RobustnessOptions(parse_corruptions(corruptions), parse_severities(severity), **options)
    return RobustnessRequest(EvaluateRequest(trained.best, out), chosen)


def measure(trained: RunFolder, out: Path, corruptions: str = "fog", severity: str = "2", **how: Any) -> dict[str, Any]:
    return evaluate_robustness(request_of(trained, out, corruptions, severity, **how), ALONE, QUIET)


def measure_in(process: Process, request: RobustnessRequest) -> dict[str, Any]:
    return evaluate_robustness(request, process, QUIET)


@pytest.mark.slow
def test_clean_images_give_the_pq_of_an_evaluation(trained: RunFolder, tmp_path: Path) -> None:
    content = measure(trained, tmp_path / "corrupted")
    metrics = evaluate(EvaluateRequest(trained.best, tmp_path / "clean", resamples=0), ALONE, QUIET)
    assert content["clean"] == metrics["panoptic"]["all"]["pq"]
    assert content["images"] == 4
    assert content["paper"] is None


@pytest.mark.slow
def test_corrupted_images_give_the_pq_of_a_plain_loop(trained: RunFolder, scenes: Path, tmp_path: Path) -> None:
    content = measure(trained, tmp_path, "gaussian_noise", "1,3")
    checkpoint, data = read_checkpoint(trained.best), CocoPanoptic(scenes, "val")
    predictor = Predictor.of(checkpoint, ALONE)
    expected = {}
    for severity in (1, 3):
        quality = PanopticQuality(checkpoint.categories)
        for sample in data:
            image = corrupt(sample.image, "gaussian_noise", severity, 3, sample.image_id)
            quality.update(compare(predictor(image).panoptic, sample.annotation))
        expected[str(severity)] = quality.result().all.pq
    (row,) = content["rows"]
    assert row["by_severity"] == expected
    assert row["pq"] == content["mean"] == pytest.approx(sum(expected.values()) / 2)
    assert json.loads((tmp_path / "robustness.json").read_text()) == content


@pytest.mark.slow
def test_finished_corruptions_are_not_evaluated_again(
    trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = measure(trained, tmp_path, "fog")
    seen = batches_seen(monkeypatch)
    assert measure(trained, tmp_path, "fog") == before
    assert seen == []
    more = measure(trained, tmp_path, "fog,snow")
    assert seen == 4 * [1]  # only the snow
    assert [row["corruption"] for row in more["rows"]] == ["fog", "snow"]


@pytest.mark.slow
def test_results_of_other_images_are_rejected(trained: RunFolder, tmp_path: Path) -> None:
    assert measure(trained, tmp_path, images=2)["images"] == 2
    with pytest.raises(PanformerError, match="choose another folder, or delete the results in this one"):
        measure(trained, tmp_path, images=3)


@pytest.mark.slow
def test_results_of_a_changed_checkpoint_are_rejected(trained: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.best.write_bytes(trained.best.read_bytes())
    measure(run, tmp_path / "out")
    os.utime(run.best, ns=(0, 0))
    with pytest.raises(PanformerError, match="was computed with checkpoint"):
        measure(run, tmp_path / "out")


def test_results_are_not_written_into_a_run(trained: RunFolder) -> None:
    with pytest.raises(PanformerError, match="has a training run; choose another folder"):
        measure(trained, trained.path)


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(
    trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = measure(trained, tmp_path / "1")
        two = in_processes(2, measure_in, request_of(trained, tmp_path / "2", "fog", "2"))
    finally:
        torch.set_num_threads(threads)
    assert two == [one, one]
