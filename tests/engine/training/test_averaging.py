"""Averaged weights: their values, what is evaluated and saved, and that a resume changes nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor

from panformer_cli.engine.checkpoints.checkpoint import (
    AVERAGED,
    MODEL,
    OPTIMIZER,
    TrainingState,
    TrainProgress,
    load_weights,
    read_checkpoint,
    read_tensors,
    read_weights,
    save_checkpoint,
)
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.evaluation.tune import save_thresholds
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.averaging import AveragedWeights
from panformer_cli.engine.training.step import OptimizerStep
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.models.build import build_model
from panformer_cli.reporting import SilentReporter
from panformer_cli.settings import TrainSettings
from tests.engine.ranks import in_processes
from tests.engine.small import ALONE, StopAfter, categories_of, small_recipe
from tests.engine.training.test_train import interrupt
from tests.engine.training.toy import ToyModel, toy_batch, toy_model, use_toy_runs


def entries(path: Path) -> dict[str, Tensor]:
    return {
        prefix + name: value
        for prefix in (MODEL, AVERAGED, OPTIMIZER)
        for name, value in read_tensors(path, prefix).items()
    }


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_the_average_is_that_of_a_plain_loop() -> None:
    """Parameters and running statistics are averaged in float64 here; the counter is copied."""
    step = OptimizerStep(ALONE, toy_model(), TrainSettings(batch_size=2, images_per_forward=2, lr=0.1))
    average = AveragedWeights(step.model, 0.7)
    expected: dict[str, Tensor] = {}
    for number in range(1, 12):
        step.take([toy_batch(number)], 1.0)
        average.update(step.model, number)
        decay = min(0.7, 1 - number ** (-2 / 3))
        for name, value in step.model.state_dict().items():
            new = value.double() if value.is_floating_point() else value
            mixed = decay * expected.get(name, new) + (1 - decay) * new
            expected[name] = mixed if value.is_floating_point() else new.clone()
    for name, value in average.model.state_dict().items():
        torch.testing.assert_close(value.to(expected[name].dtype), expected[name], rtol=1e-5, atol=1e-6, msg=name)
    assert int(average.model.state_dict()["norm.num_batches_tracked"]) == 11
    assert not torch.equal(average.model.state_dict()["layer.weight"], step.model.state_dict()["layer.weight"])


def test_the_average_of_another_model_is_refused() -> None:
    with pytest.raises(AssertionError, match="the average is of another model"):
        AveragedWeights(toy_model(), 0.9).update(torch.nn.Linear(4, 4), 1)  # type: ignore[arg-type]


SETTINGS = ("train.ema_decay=0.9", "train.lr=0.05", "train.images_per_forward=2")


def test_both_weights_are_saved_and_the_averaged_ones_are_evaluated(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[dict[str, Tensor]] = []

    def evaluate(model: ToyModel) -> float:
        assert not model.training
        evaluated.append({name: value.clone() for name, value in model.state_dict().items()})
        return 50.0 + len(evaluated)

    use_toy_runs(monkeypatch, evaluate)
    run = train(
        small_recipe(scenes, *SETTINGS, "train.epochs=3"), TrainOptions(tmp_path / "run"), ALONE, SilentReporter()
    )
    last = run.run.last
    raw, averaged = read_tensors(last, MODEL), read_tensors(last, AVERAGED)
    assert raw.keys() == averaged.keys()
    assert not torch.equal(raw["layer.weight"], averaged["layer.weight"])
    assert_equal(averaged, evaluated[-1])
    assert_equal(averaged, read_tensors(run.run.best, MODEL))
    model = toy_model()
    load_weights(model, read_checkpoint(last))
    assert_equal(averaged, model.state_dict())
    load_weights(model, read_checkpoint(last), averaged=False)
    assert_equal(raw, model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_resumed_run_has_the_average_of_an_undisturbed_one(
    stop: int, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_toy_runs(monkeypatch)
    recipe = small_recipe(scenes, *SETTINGS, "train.epochs=3")
    whole = train(recipe, TrainOptions(tmp_path / "whole"), ALONE, SilentReporter()).run
    run = RunFolder(tmp_path / "run")
    assert not train(recipe, TrainOptions(run.path), ALONE, StopAfter(stop, interrupt)).ended
    torch.manual_seed(4)
    train(recipe, TrainOptions(run.path, resume=True), ALONE, SilentReporter())
    assert_equal(entries(whole.last), entries(run.last))
    assert_equal(entries(whole.best), entries(run.best))


def test_averaging_changes_no_weights(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy_runs(monkeypatch)
    runs = [
        train(small_recipe(scenes, *SETTINGS[1:], *more), TrainOptions(tmp_path / name), ALONE, SilentReporter()).run
        for name, more in (("with", SETTINGS[:1]), ("without", ()))
    ]
    assert_equal(read_tensors(runs[0].last, MODEL), read_tensors(runs[1].last, MODEL))
    assert read_tensors(runs[1].last, AVERAGED) == {}


@pytest.mark.slow
def test_an_average_can_start_and_end_with_a_resume(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_toy_runs(monkeypatch)
    run = RunFolder(tmp_path / "run")
    without = small_recipe(scenes, *SETTINGS[1:], "train.epochs=1")
    train(without, TrainOptions(run.path), ALONE, SilentReporter())
    reporter = StopAfter()
    train(small_recipe(scenes, *SETTINGS, "train.epochs=2"), TrainOptions(run.path, resume=True), ALONE, reporter)
    assert "train.ema_decay: the average starts with the weights of the checkpoint" in reporter.messages
    assert read_tensors(run.last, AVERAGED)
    train(
        small_recipe(scenes, *SETTINGS[1:], "train.epochs=3"),
        TrainOptions(run.path, resume=True),
        ALONE,
        SilentReporter(),
    )
    assert read_tensors(run.last, AVERAGED) == {}


@pytest.mark.parametrize("together", [1, 2, 4])
def test_there_is_one_update_for_each_step_that_was_taken(
    together: int, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 2 of 4 is skipped; the batch of 4 images is divided into several forward passes."""
    use_toy_runs(monkeypatch)
    updates: list[int | None] = []
    update, take, taken = ModelEmaV3.update, OptimizerStep.take, iter(range(4))

    def counted(self: ModelEmaV3, model: ToyModel, step: int | None = None) -> None:
        updates.append(step)
        update(self, model, step)

    def second_is_bad(self: OptimizerStep, batches: list, factor: float) -> object:  # type: ignore[type-arg]
        if next(taken) == 1:
            batches[-1].images[:] = math.nan
        return take(self, batches, factor)

    monkeypatch.setattr(ModelEmaV3, "update", counted)
    monkeypatch.setattr(OptimizerStep, "take", second_is_bad)
    recipe = small_recipe(scenes, SETTINGS[0], f"train.images_per_forward={together}", "train.epochs=2")
    if together == 1:
        monkeypatch.setattr(
            ToyModel, "train", lambda self, mode=True: torch.nn.Module.train(self, False)
        )  # BatchNorm needs more than one image
    train(recipe, TrainOptions(tmp_path / "run"), ALONE, SilentReporter())
    assert updates == [1, 2, 3]


@pytest.mark.slow
def test_other_thresholds_keep_both_weights(scenes: Path, tmp_path: Path) -> None:
    recipe, categories = small_recipe(scenes), categories_of(scenes)
    model = build_model(recipe.model, recipe.inference, categories)
    averaged = {name: value * 2 for name, value in model.state_dict().items()}
    state = TrainingState({"a.exp_avg": torch.ones(1)}, averaged=averaged)
    last, out = tmp_path / "last.safetensors", tmp_path / "tuned.safetensors"
    save_checkpoint(last, model, recipe, categories, TrainProgress(step=3), state)
    save_thresholds(last, recipe.inference, out)
    assert_equal(entries(last), entries(out))
    assert_equal(read_weights(read_checkpoint(out)), averaged)


def averages_of_a_rank(process: Process, scenes: Path, out: Path) -> dict[str, list[dict[str, Tensor]]]:
    """Train twice, saving after each step and only at the end; return the averages that were evaluated."""
    evaluated: dict[str, list[dict[str, Tensor]]] = {"often": [], "once": []}
    for name, minutes in (("often", 1e-9), ("once", 1e6)):
        settings = ("train.epochs=2", "train.evaluate_every=2", f"train.save_minutes={minutes}")
        recipe = small_recipe(scenes, *SETTINGS, *settings)
        with pytest.MonkeyPatch.context() as patch:

            def evaluate(model: ToyModel, name: str = name) -> float:
                evaluated[name].append({key: value.clone() for key, value in model.state_dict().items()})
                return 50.0

            use_toy_runs(patch, evaluate)
            train(recipe, TrainOptions(out / name), process, SilentReporter())
    return evaluated


@pytest.mark.slow
def test_all_ranks_evaluate_the_average_that_is_saved(scenes: Path, tmp_path: Path) -> None:
    first, second = in_processes(2, averages_of_a_rank, scenes, tmp_path)
    for name in ("often", "once"):
        assert len(first[name]) == len(second[name]) == 1
        assert_equal(first[name][0], second[name][0])
        assert_equal(first[name][0], read_tensors(tmp_path / name / "last.safetensors", AVERAGED))
    assert_equal(first["often"][0], first["once"][0])
