"""fp16: the scale of the losses, what an overflow changes, and that a resume continues with the same scale."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.amp import GradScaler

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.loading import train_loader
from panformer_cli.engine.checkpoints.checkpoint import (
    MODEL,
    OPTIMIZER,
    SCALER,
    read_checkpoint,
    read_tensors,
)
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.step import OptimizerStep, StepResult
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.errors import PanformerError
from panformer_cli.models.build import build_model
from panformer_cli.reporting import SilentReporter
from panformer_cli.settings import TrainSettings
from tests.engine.small import ALONE, StopAfter, categories_of, small_recipe
from tests.engine.training.test_train import interrupt
from tests.engine.training.toy import toy_batch, toy_model, use_toy_runs

STEP = "panformer_cli.engine.training.step"


@pytest.fixture
def fp16_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow runs of the toy model in fp16 on the CPU, with a scale of 16 that doubles after 3 good steps."""
    use_toy_runs(monkeypatch)
    monkeypatch.setattr("panformer_cli.engine.training.train.check_device_supports", lambda *_: None)
    monkeypatch.setattr(f"{STEP}.GradScaler", partial(GradScaler, init_scale=16.0, growth_interval=3))


def entries(path: Path) -> dict[str, Tensor]:
    return {
        prefix + name: value
        for prefix in (MODEL, OPTIMIZER, SCALER)
        for name, value in read_tensors(path, prefix).items()
    }


def test_the_norm_and_the_step_are_those_of_unscaled_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without autocast, only the scaler differs, by powers of two, which are exact; the norm is clipped to 0.1."""
    monkeypatch.setattr(f"{STEP}.autocast", lambda *_: nullcontext())
    results: list[tuple[StepResult, dict[str, Tensor]]] = []
    for precision in ("fp32", "fp16"):
        settings = TrainSettings(batch_size=4, images_per_forward=2, lr=0.1, precision=precision)
        step = OptimizerStep(ALONE, toy_model(), settings)
        assert step.scaler.is_enabled() == (precision == "fp16")
        torch.manual_seed(0)
        result = step.take([toy_batch(1), toy_batch(2)], 1.0)
        results.append((result, step.model.state_dict()))
    (plain, weights), (scaled, others) = results
    assert float(plain.gradient_norm) == float(scaled.gradient_norm) > 0.1
    assert plain.loss == scaled.loss
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name


def test_an_overflow_halves_the_scale_and_changes_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{STEP}.GradScaler", partial(GradScaler, init_scale=2.0**10))
    step = OptimizerStep(ALONE, toy_model(), TrainSettings(batch_size=2, images_per_forward=2, precision="fp16"))
    assert step.take([toy_batch(1)], 1.0).skipped is None
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    result = step.take([toy_batch(2, 0.0, bad=True)], 1.0)  # an infinite gradient
    assert result.skipped is not None
    assert (result.skipped.reason, result.skipped.image_ids) == ("overflow", [])
    assert step.scaler.get_scale() == 2.0**9
    for name, value in step.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    result = step.take([toy_batch(2, math.nan, bad=True)], 1.0)  # a NaN loss is not the scale's fault
    assert result.skipped is not None
    assert result.skipped.reason == "loss"
    assert step.scaler.get_scale() == 2.0**9
    for _ in range(10):
        result = step.take([toy_batch(2, 0.0, bad=True)], 1.0)
    assert result.skipped is not None
    assert (result.skipped.reason, len(result.skipped.image_ids)) == ("gradient", 2)  # no scale is low enough


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_resumed_run_has_the_scale_and_its_growth(
    stop: int, scenes: Path, tmp_path: Path, fp16_runs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 3 overflows: the scale is 16, 16, 8 after it; 3 good steps later it is 16 again."""
    take = OptimizerStep.take

    def third_overflows(self: OptimizerStep, batches: list, factor: float) -> object:  # type: ignore[type-arg]
        weight = self.model.state_dict()["norm.num_batches_tracked"]
        if int(weight) == 4 and not hasattr(third_overflows, folder.name):  # two batches a step
            setattr(third_overflows, folder.name, True)
            for batch in batches:
                batch.images[:] = 0
        return take(self, batches, factor)

    monkeypatch.setattr(OptimizerStep, "take", third_overflows)
    recipe = small_recipe(
        scenes, "train.precision=fp16", "train.images_per_forward=2", "train.epochs=3", "train.lr=0.01"
    )
    folder = tmp_path / "whole"
    whole = train(recipe, TrainOptions(folder), ALONE, SilentReporter()).run
    folder = tmp_path / "run"
    run = RunFolder(folder)
    assert not train(recipe, TrainOptions(run.path), ALONE, StopAfter(stop, interrupt)).ended
    torch.manual_seed(5)
    train(recipe, TrainOptions(run.path, resume=True), ALONE, SilentReporter())
    expected, resumed = entries(whole.last), entries(run.last)
    assert expected.keys() == resumed.keys()
    for name, value in expected.items():
        assert torch.equal(value, resumed[name]), name
    assert float(expected["scaler.scale"]) == 16
    progress = read_checkpoint(run.last).progress
    assert (progress.step, progress.skipped_steps, progress.overflows, progress.bad_steps) == (6, 1, 1, 0)
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [(row["step"], row["reason"]) for row in lines if row["kind"] == "skipped"] == [(3, "overflow")]


@pytest.mark.slow
def test_a_run_can_change_its_precision_on_resume(scenes: Path, tmp_path: Path, fp16_runs: None) -> None:
    """All six changes, one after the other; fp16 starts with a new scale where there was none."""
    order = ["fp32", "fp16", "bf16", "fp16", "fp32", "bf16", "fp32"]
    run = RunFolder(tmp_path / "run")
    for number, precision in enumerate(order, start=1):
        settings = (f"train.precision={precision}", "train.images_per_forward=2", f"train.max_steps={number}")
        recipe, reporter = small_recipe(scenes, "train.epochs=9", *settings), StopAfter()
        train(recipe, TrainOptions(run.path, resume=number > 1), ALONE, reporter)
        assert ("scaler.scale" in entries(run.last)) == (precision == "fp16")
        if number > 1:
            assert any("train.precision" in text for text in reporter.messages + reporter.warnings)
    assert read_checkpoint(run.last).progress.step == len(order)


def test_fp16_on_a_cpu_is_refused_before_the_folder_is_made(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(PanformerError, match=r"train\.precision=fp16 needs a GPU, .*; use bf16 or fp32"):
        train(small_recipe(scenes, "train.precision=fp16"), TrainOptions(tmp_path / "run"), ALONE, SilentReporter())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_real_model_takes_a_step_in_fp16(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for precision in ("fp32", "fp16"):
        recipe = small_recipe(
            scenes, f"train.precision={precision}", "train.batch_size=1", "train.images_per_forward=1"
        )
        torch.manual_seed(0)
        monkeypatch.setattr(f"{STEP}.GradScaler", partial(GradScaler, init_scale=2.0**8))
        model = build_model(recipe.model, recipe.inference, categories_of(scenes), sampling="portable")
        step = OptimizerStep(ALONE, model, recipe.train)
        batches = next(iter(train_loader(CocoPanoptic(Path(recipe.data.root), "train"), recipe).epoch(0)))
        result = step.take(batches, 1.0)
        while result.skipped is not None and result.skipped.reason == "overflow":
            result = step.take(batches, 1.0)
        assert result.skipped is None
        losses.append(result.loss)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
