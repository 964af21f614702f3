"""One of two ranks fails: memory runs out in its forward or backward pass, or it fails between two steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint, read_training_state
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.memory.fallback import MemoryFallback, StepOutOfMemoryError
from panformer_cli.engine.training.memory.plan import MemoryPlan
from panformer_cli.engine.training.step import OptimizerStep, _LossesOrNaN
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.engine.training.watching.train_log import TrainLog
from panformer_cli.models.base import LossCounts
from panformer_cli.models.panoptic_segformer.model import PanopticSegFormer
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import load_recipe
from tests.engine.ranks import in_processes
from tests.engine.small import ALONE, StopAfter, small_recipe
from tests.engine.training.toy import toy_batch, toy_model, use_toy_runs

MEMORY_RAN_OUT = "^memory ran out; resume with other settings .*; step 2 of 4 is saved$"


def failing_at(call: int, error: Exception, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that raises the error in one of its calls, counted from 1."""
    calls = 0

    def wrapped(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        return method(*arguments, **named)

    return wrapped


def failing_on_rank_1(process: Process, recipe: Recipe, out: Path, told: Path) -> None:
    """Let memory run out in the second forward pass, and the log fail after step 2; then resume, and let memory run out
    in the backward pass of step 4. What each rank reports is written to `told`."""
    reporter = StopAfter()
    lines: list[str] = []
    no_memory = torch.OutOfMemoryError("CUDA out of memory")
    forward, add, accumulate = PanopticSegFormer.forward, TrainLog.add, OptimizerStep.accumulate

    def tell(error: Exception, *more: str) -> None:
        lines.extend([*reporter.warnings, f"{type(error).__name__}: {error}", *more])
        (told / f"{process.rank}.json").write_text(json.dumps(lines), encoding="utf-8")

    try:
        if process.rank == 1:
            PanopticSegFormer.forward = failing_at(2, no_memory, forward)  # type: ignore[method-assign]
            TrainLog.add = failing_at(2, ValueError("planted"), add)  # type: ignore[method-assign]
        train(recipe, TrainOptions(out), process, reporter)
    except Exception as error:
        tell(error, *sorted(read_training_state(read_checkpoint(out / "last.safetensors")).random))
    PanopticSegFormer.forward, TrainLog.add = forward, add  # type: ignore[method-assign]
    try:
        if process.rank == 1:
            late = RuntimeError("CUDA error: out of memory")
            OptimizerStep.accumulate = failing_at(2, late, accumulate)  # type: ignore[method-assign]
        train(load_recipe(str(out / "recipe.yaml")), TrainOptions(out, resume=True), process, reporter)
    except Exception as error:
        if process.rank == 1:
            reporter.warnings.clear()
            tell(error)
        raise


@pytest.mark.slow
def test_all_ranks_use_less_memory_or_end_with_everything_saved(scenes: Path, tmp_path: Path) -> None:
    settings = ("train.batch_size=4", "train.images_per_forward=1", "train.max_steps=4", "train.log_every=3")
    recipe = small_recipe(scenes, *settings)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(ChildFailedError):
        in_processes(2, failing_on_rank_1, recipe, run.path, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
    plan = MemoryPlan(1, recipe.train.precision, recipe.model.parts[:1])
    fallback = f"memory ran out in step 1; training continues with {plan}"
    randoms = ["0.cpu", "1.cpu"]  # of both ranks, so that the run resumes exactly
    assert first == [fallback, "PanformerError: ValueError: planted; step 2 of 4 is saved", *randoms]
    assert second[:-1] == [fallback, "ValueError: planted", *randoms]
    assert second[-1].startswith("PanformerError: memory ran out in one of several processes while the others waited ")
    assert second[-1].endswith("; step 3 of 4 is saved")
    saved = read_checkpoint(run.last)
    assert saved.progress.step == 3
    assert MemoryPlan.of(saved.recipe.train) == plan
    result = train(load_recipe(str(run.recipe)), TrainOptions(run.path, resume=True), ALONE, StopAfter())
    assert result.ended
    assert result.saved_step == 4


@pytest.mark.slow
def test_after_the_first_epoch_a_run_without_memory_saves_and_ends(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single process, which resumes with the numbers of a run that was not interrupted."""
    use_toy_runs(monkeypatch)
    recipe = small_recipe(scenes, "train.batch_size=4", "train.max_steps=4", "train.epochs=2")
    run, whole = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    no_memory = torch.OutOfMemoryError("CUDA out of memory")

    def late(*arguments: Any) -> Any:
        try:
            return take(*arguments)
        except torch.OutOfMemoryError:
            torch.rand(3)  # as dropout would have
            raise

    take = failing_at(3, no_memory, OptimizerStep.accumulate)
    with monkeypatch.context() as patched:
        patched.setattr(OptimizerStep, "accumulate", late)
        with pytest.raises(StepOutOfMemoryError, match=MEMORY_RAN_OUT):
            train(recipe, TrainOptions(run.path), ALONE, StopAfter())
    train(recipe, TrainOptions(run.path, resume=True), ALONE, StopAfter())
    train(recipe, TrainOptions(whole.path), ALONE, StopAfter())
    rows = [[(row["step"], row.get("loss")) for row in map(json.loads, each.metrics.open())] for each in (run, whole)]
    assert rows[0] == rows[1]


def test_moments_that_exist_in_part_are_not_saved(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out in the first optimizer step; a run could not resume with `step` alone."""
    recipe = small_recipe(scenes)
    step = OptimizerStep(ALONE, toy_model(), recipe.train)

    def take(*_: Any) -> None:
        step.optimizer.state[next(step.model.parameters())]["step"] = torch.tensor(0.0)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step, "take", take)
    with pytest.raises(StepOutOfMemoryError):
        MemoryFallback(ALONE, step, recipe, lambda *_: None).take([], 1.0, may_change=False)
    assert not step.optimizer.state


def test_the_random_numbers_of_a_failed_step_are_drawn_again(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = OptimizerStep(ALONE, toy_model(), small_recipe(scenes).train)
    step.take([toy_batch(1)], 1.0)
    before = torch.get_rng_state()

    def draw(*_: Any) -> None:
        torch.rand(5)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step, "accumulate", draw)
    with pytest.raises(torch.OutOfMemoryError):
        step.take([toy_batch(2)], 1.0)
    assert not torch.equal(torch.get_rng_state(), before)
    step.forget_failed_step()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("synchronizes", [False, True])
def test_with_synchronized_batch_norm_a_rank_without_memory_fails_alone(synchronizes: bool) -> None:
    """The others wait for it in their forward pass, not for its gradients."""
    model, no_memory = toy_model(), torch.OutOfMemoryError("CUDA out of memory")
    model.forward = failing_at(1, no_memory, model.forward)  # type: ignore[method-assign]
    losses = _LossesOrNaN(model, Process(1, 2, ALONE.device), synchronizes)
    with pytest.raises(torch.OutOfMemoryError) if synchronizes else nullcontext():
        losses(toy_batch(0), LossCounts(1, 1))
    assert losses.ran_out_of_memory != synchronizes
