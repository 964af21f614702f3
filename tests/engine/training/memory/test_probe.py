"""`--fit-memory` on a small model: the worst batch, the measurement, and what it leaves unchanged."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.loading import train_loader
from panformer_cli.data.structures import Batch
from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from panformer_cli.engine.training.memory import probe
from panformer_cli.engine.training.memory.plan import MemoryPlan, Probe
from panformer_cli.engine.training.memory.probe import LiveTensors, fit_memory
from panformer_cli.engine.training.memory.worst_case import worst_batch, worst_case
from panformer_cli.engine.training.start import StartRequest, plan_start
from panformer_cli.engine.training.step import OptimizerStep
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.errors import PanformerError
from panformer_cli.models.base import count_segments
from panformer_cli.recipe_io import load_recipe
from panformer_cli.reporting import SilentReporter
from tests.engine.small import ALONE, StopAfter, small_recipe

GB = 1e9
FROZEN = ("model.frozen_batch_norm=true",)


def test_live_tensors_are_counted_until_they_are_freed() -> None:
    with LiveTensors(limit=20_000) as live:
        one = torch.ones(1000)
        view = one[:10]
        two = one + 1
        assert live.peak == 8000
        del one
        three = two * 2  # the view keeps the first storage
        assert live.peak == 12_000
    del two, three, view


def test_more_than_the_limit_ends_a_trial() -> None:
    with pytest.raises(probe._LimitError), LiveTensors(limit=5000):
        kept = [torch.ones(1000) for _ in range(3)]
        del kept


@pytest.mark.slow
@pytest.mark.parametrize("copies", [0.0, 0.5])
def test_no_batch_of_the_data_set_is_larger_than_the_worst_one(scenes: Path, copies: float) -> None:
    sizes = ("data.train_short_sides=[40,64]", "data.long_side=90", "data.crop_short_sides=[40]")
    others = ("data.crop_range=[32,40]", f"data.copy_paste={copies}", "train.images_per_forward=2")
    recipe = small_recipe(scenes, *sizes, *others)
    data = CocoPanoptic(scenes, "train")
    case = worst_case(data, recipe.data)
    things = data.categories.num_things
    worst = worst_batch(case, 2, data.categories)
    most = count_segments(worst.targets[:1], things)[0], len(worst.targets[0].labels)
    loader = train_loader(data, recipe)
    for epoch in range(3):
        for batches in loader.epoch(epoch):
            for batch in batches:
                assert batch.images.shape[2] <= worst.images.shape[2]
                assert batch.images.shape[3] <= worst.images.shape[3]
                for target in batch.targets:
                    assert count_segments([target], things)[0] <= most[0]
                    assert len(target.labels) <= most[1]
                    assert target.masks.shape[1] * target.masks.shape[2] <= case.single[0] * case.single[1]


@pytest.mark.slow
def test_fitting_changes_no_state_and_what_it_finds_is_kept(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "fast_precision", lambda _: "fp32")
    recipe = small_recipe(scenes, *FROZEN, "train.batch_size=4", "train.images_per_forward=2", "train.max_steps=1")
    torch.manual_seed(9)
    before = torch.get_rng_state()
    reporter = StopAfter()
    fitted = fit_memory(recipe, 100 * GB, ALONE, reporter)
    assert torch.equal(torch.get_rng_state(), before)
    assert fitted == recipe  # it fits as it is
    assert reporter.messages[-1] == f"Fits in 100.0 GB: {MemoryPlan.of(recipe.train)}"

    small = MemoryPlan(1, "fp32", recipe.model.parts[:2])
    fits = {small: Probe(GB, 1.0)}
    monkeypatch.setattr(probe._Trial, "__call__", lambda _, plan: fits.get(plan))
    train(recipe, TrainOptions(tmp_path / "run", fit_memory=2 * GB), ALONE, SilentReporter())
    saved = read_checkpoint(tmp_path / "run" / "last.safetensors").recipe
    assert saved == replace(recipe, train=small.applied(recipe.train))
    assert load_recipe(str(tmp_path / "run" / "recipe.yaml")) == saved
    request = StartRequest(None, resume=str(tmp_path / "run"), fit_memory=True)
    assert plan_start(request, SilentReporter()).recipe == saved

    fits.clear()
    with pytest.raises(PanformerError, match=r"even with train.images_per_forward=1, .* more than 2.0 GB"):
        fit_memory(recipe, 2 * GB, ALONE, SilentReporter())


@pytest.mark.slow
def test_a_step_that_runs_out_of_memory_is_taken_again_with_less(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    seen: list[list[int]] = []
    take = OptimizerStep.take

    def sometimes(self: OptimizerStep, batches: list[Batch], factor: float) -> Any:
        gc.collect()
        assert not [tensor for tensor in alive if tensor() is not None], "the failed try is still in memory"
        seen.append([len(batch.targets) for batch in batches])
        if max(seen[-1]) > 1:
            activations = torch.ones(3)
            alive.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return take(self, batches, factor)

    monkeypatch.setattr(OptimizerStep, "take", sometimes)
    recipe = small_recipe(scenes, *FROZEN, "train.batch_size=4", "train.images_per_forward=2", "train.max_steps=2")
    reporter = StopAfter()
    result = train(recipe, TrainOptions(tmp_path / "run"), ALONE, reporter)
    assert result.ended
    assert seen == [[2, 2]] * 6 + [[1, 1, 1, 1]] * 2
    plan = MemoryPlan(1, recipe.train.precision, recipe.model.parts)
    assert f"memory ran out in step 1; training continues with {plan}" in reporter.warnings
    assert MemoryPlan.of(read_checkpoint(tmp_path / "run" / "last.safetensors").recipe.train) == plan
    assert MemoryPlan.of(load_recipe(str(tmp_path / "run" / "recipe.yaml")).train) == plan
