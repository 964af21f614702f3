"""The report of a profile, and that profiling leaves a run as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from panformer_cli.engine.checkpoints.checkpoint import MODEL, read_tensors
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.engine.training.watching import profile as module
from panformer_cli.engine.training.watching.profile import WAITING, mean_parts, report_lines
from tests.engine.small import ALONE, StopAfter, run_small, small_recipe


def test_means_are_sorted_and_a_part_that_did_not_run_counts_as_zero() -> None:
    means = mean_parts([{WAITING: 1.0, "backward": 5.0}, {WAITING: 3.0, "backward": 3.0, "forward: encoder": 2.0}])
    assert list(means.items()) == [("backward", 4.0), (WAITING, 2.0), ("forward: encoder", 1.0)]


@pytest.mark.parametrize(
    ("waiting", "verdict"),
    [
        (0.1, "compute-bound: more data.workers would not help; the longest part is backward"),
        (1.5, "data-bound: the model waits for images 50 % of the time"),
    ],
)
def test_the_verdict_names_what_limits_the_speed(waiting: float, verdict: str) -> None:
    first, second = report_lines({WAITING: waiting, "backward": 1.0, "forward: encoder": 0.497, "rest": 0.003}, 10)
    assert second.startswith(f"Verdict: {verdict}")
    assert f"10 steps of {waiting + 1.5:.3g} s on average: " in first
    assert "rest" not in first  # less than half a percent


@pytest.mark.slow
def test_a_profiled_run_ends_with_the_same_weights(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WARM_UP", 1)
    monkeypatch.setattr(module, "MEASURED", 2)
    recipe, reporter = small_recipe(scenes, "train.max_steps=5", "model.dropout=0.2"), StopAfter()
    train(recipe, TrainOptions(tmp_path / "profiled", profile=True), ALONE, reporter)
    run_small(recipe, tmp_path / "plain")
    plain, profiled = (read_tensors(tmp_path / name / "last.safetensors", MODEL) for name in ("plain", "profiled"))
    assert all(torch.equal(value, profiled[name]) for name, value in plain.items())

    content = json.loads((tmp_path / "profiled" / "profile" / "profile.json").read_text())
    assert content["steps"] == 2
    assert {WAITING, "forward: encoder", "forward: rest", "backward", "clipping", "optimizer"} < set(content["seconds"])
    assert all(seconds >= 0 for seconds in content["seconds"].values())
    trace = json.loads((tmp_path / "profiled" / "profile" / "trace.json").read_text())
    assert any("backward" in event.get("name", "").lower() for event in trace["traceEvents"])
    assert any(line.startswith("Verdict: ") for line in reporter.messages)


@pytest.mark.slow
def test_a_run_that_is_too_short_says_so(scenes: Path, tmp_path: Path) -> None:
    reporter = StopAfter()
    train(small_recipe(scenes, "train.max_steps=1"), TrainOptions(tmp_path, profile=True), ALONE, reporter)
    assert reporter.warnings == ["--profile: the run ended before step 4, the first one that is measured"]
