"""One optimizer step: what a step changes, and that a step with NaN or infinity changes nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import Batch
from panformer_cli.engine.checkpoints.checkpoint import TrainProgress
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.replay.recorder import BadStepRecorder
from panformer_cli.engine.training.replay.replay import replay
from panformer_cli.engine.training.step import OptimizerStep, StepResult
from panformer_cli.recipe_io import load_recipe
from panformer_cli.reporting import SilentReporter
from panformer_cli.settings import TrainSettings
from tests.engine.ranks import in_processes
from tests.engine.small import ALONE, BACKBONE
from tests.engine.training.toy import toy_batch, toy_model, use_toy_replays

THING = {"id": 1, "name": "a", "isthing": 1, "color": [1, 2, 3]}
SETTINGS = TrainSettings(batch_size=4, images_per_forward=2, lr=0.01)


def state(step: OptimizerStep) -> dict[str, Tensor]:
    """Everything that a step changes: weights, running statistics, moments."""
    moments = {
        f"{index}.{key}": value
        for index, values in enumerate(step.optimizer.state.values())
        for key, value in values.items()
    }
    return {name: value.clone() for name, value in (step.model.state_dict() | moments).items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize(
    ("value", "reason", "images"),
    [
        (math.nan, "loss", [7, "7-b"]),
        (math.inf, "loss", [7, "7-b"]),  # the matcher's error
        (0.0, "gradient", [1, "1-b", 7, "7-b"]),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_a_step_that_is_not_finite_changes_nothing(
    value: float, reason: str, images: list[object], first: bool
) -> None:
    step = OptimizerStep(ALONE, toy_model(), SETTINGS)
    step.take([toy_batch(1), toy_batch(2)], 1.0)
    before = state(step)
    batches = [toy_batch(1), toy_batch(7, value, bad=True)]
    result = step.take(batches[::-1] if first else batches, 1.0)
    assert result.skipped is not None
    assert result.skipped.reason == reason
    assert sorted(map(str, result.skipped.image_ids)) == sorted(map(str, images))
    assert math.isnan(result.loss)
    assert_equal(state(step), before)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_the_step_after_a_skipped_one_is_as_without_it(value: float) -> None:
    results = []
    for bad in (True, False):
        step = OptimizerStep(ALONE, toy_model(), SETTINGS)
        step.take([toy_batch(1), toy_batch(2)], 1.0)
        if bad:
            step.take([toy_batch(1), toy_batch(7, value, bad=True)], 1.0)
        torch.manual_seed(3)  # dropout: a skipped step draws, too
        results.append((step.take([toy_batch(3), toy_batch(4)], 0.5), state(step)))
    assert results[0][0].loss == results[1][0].loss
    assert results[0][0].gradient_norm == results[1][0].gradient_norm
    assert_equal(results[0][1], results[1][1])


def test_the_loss_of_a_step_is_the_mean_over_its_batches() -> None:
    step = OptimizerStep(ALONE, toy_model(), SETTINGS)
    result = step.take([toy_batch(1), toy_batch(2)], 1.0)
    sums = [float(sum(losses.values())) for losses in result.losses]
    assert len(sums) == 2
    assert result.loss == pytest.approx(sum(sums) / 2)
    assert result.skipped is None


def steps_of_a_rank(
    process: Process, kinds: list[float | None], out: Path
) -> tuple[list[StepResult], dict[str, Tensor]]:
    """Take a step for each of `kinds`; rank 1's second batch consists of that value, if there is one.

    Each skipped step is recorded in a folder of its own in `out`, as the first one of a run.
    """
    step = OptimizerStep(process, toy_model(), TrainSettings(batch_size=8, images_per_forward=2, lr=0.01))
    torch.manual_seed(process.rank)
    results = []
    for number, value in enumerate(kinds):
        seed = 10 * number + 100 * process.rank
        second = toy_batch(seed + 1, value or 0.0, bad=value is not None and process.rank == 1)
        batches: list[Batch] = [toy_batch(seed), second]
        result = step.take(batches, 1.0)
        results.append(result)
        if result.skipped is not None and result.inputs is not None:
            recipe = load_recipe("tiny", [f"model.backbone={BACKBONE}"])
            step.model.categories = CategoryTable.from_coco([THING], "test")
            recorder = BadStepRecorder(process, RunFolder(out / str(number)), step.model, SilentReporter())
            recorder.record(result.skipped, result.inputs, [], recipe, TrainProgress(step=number))
    weights = {name: value.detach() for name, value in step.model.named_parameters()}
    return results, weights


@pytest.mark.slow
def test_all_ranks_skip_and_record_the_step_that_is_bad_on_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [None, math.nan, None, math.inf, 0.0, None]
    (first, weights), (second, others) = in_processes(2, steps_of_a_rank, kinds, tmp_path)
    reasons = [[result.skipped and result.skipped.reason for result in results] for results in (first, second)]
    assert reasons[0] == reasons[1] == [None, "loss", None, "loss", "gradient", None]
    bad = [[result.skipped.image_ids for result in results if result.skipped] for results in (first, second)]
    assert bad[0] == bad[1]
    assert bad[0][:2] == [[111, "111-b"], [131, "131-b"]]
    assert len(bad[0][2]) == 8
    assert [result.loss for result in first] == pytest.approx([result.loss for result in second], nan_ok=True)
    assert_equal(weights, others)
    files = {path.name: path for number in (1, 4) for path in RunFolder(tmp_path / str(number)).bad_steps}
    assert list(files) == [
        "bad-step-1-rank-1.safetensors",  # the other rank's losses are finite
        "bad-step-4-rank-0.safetensors",
        "bad-step-4-rank-1.safetensors",
    ]
    use_toy_replays(monkeypatch)
    found = {name: replay(path, ALONE, SilentReporter()) for name, path in files.items()}
    assert all(each.is_equal and each.differs == [] for each in found.values())
    assert [each.loss for each in found.values()] == ["square/0", None, None]
    assert [each.gradients for each in found.values()][1:] == [[], ["layer.bias"]]
