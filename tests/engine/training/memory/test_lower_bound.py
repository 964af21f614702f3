"""The least memory of a step: never more than a real step needs, and refused before the run folder exists."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.engine.training.memory import lower_bound
from panformer_cli.engine.training.memory.lower_bound import _FusedAttention, check_fits, least_memory
from panformer_cli.engine.training.memory.plan import MemoryPlan
from panformer_cli.engine.training.memory.probe import LiveTensors, _Trial
from panformer_cli.engine.training.memory.worst_case import WorstCase, usual_size
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.errors import RecipeError
from panformer_cli.models.backbones.build import build_backbone
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import load_recipe
from tests.engine.small import ALONE, BACKBONE, StopAfter, categories_of, small_recipe

GIB = 2**30
LARGE = ("data.long_side=16384", "data.train_short_sides=[16384]")


def peak_of_steps(recipe: Recipe, scenes: Path, size: tuple[int, int]) -> int:
    """Return the peak of two real steps on one image without segments, in bytes of tensors."""
    trial = object.__new__(_Trial)
    trial._recipe, trial._categories, trial._processes, trial._alone = recipe, categories_of(scenes), 1, ALONE
    trial._case = WorstCase(size, size, 0, 0)
    live = LiveTensors(math.inf)
    with torch.random.fork_rng(devices=[]), live:
        trial._steps(MemoryPlan.of(recipe.train))
    return live.peak


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("train.checkpoint=[encoder,backbone,location_decoder]",),
        ("train.precision=bf16", "train.batch_size=2", "train.ema_decay=0.9", "train.freeze=[neck]"),
        ("model.backbone=timm/convnext_atto", "model.frozen_batch_norm=true"),
        ("train.freeze=[backbone]",),
    ],
)
def test_a_real_step_needs_more_but_not_many_times_more(scenes: Path, overrides: tuple[str, ...]) -> None:
    size = (256, 320)
    settings = ("model.frozen_batch_norm=true", "train.batch_size=1", *overrides, "model.backbone_weights=none")
    recipe = small_recipe(scenes, *settings)
    needed = least_memory(recipe, MemoryPlan.of(recipe.train), categories_of(scenes), size)
    assert needed.total <= peak_of_steps(recipe, scenes, size) <= 2.5 * needed.total


@pytest.mark.slow
def test_a_frozen_backbone_needs_no_moments_and_keeps_nothing(scenes: Path) -> None:
    size = (256, 320)
    trained = small_recipe(scenes, "train.batch_size=1", "train.images_per_forward=1")
    frozen = small_recipe(scenes, "train.batch_size=1", "train.images_per_forward=1", "train.freeze=[backbone]")
    categories = categories_of(scenes)
    before, after = (
        least_memory(recipe, MemoryPlan.of(recipe.train), categories, size) for recipe in (trained, frozen)
    )
    weights = sum(parameter.nbytes for parameter in build_backbone(BACKBONE, 0.0, 0, False).parameters())
    assert before.weights - after.weights == 2 * weights
    # At least the output of the first convolution, 8 channels at half of the resolution, before its BatchNorm.
    assert before.activations - after.activations > 8 * (256 // 2) * (320 // 2) * 4


def test_attention_keeps_no_weights() -> None:
    """PVTv2's attention over a whole image would otherwise have more of them than everything else needs."""
    queries = torch.empty(1, 1, 1000, 8, device="meta", requires_grad=True)
    live = LiveTensors(math.inf)
    with live, _FusedAttention():
        output = F.scaled_dot_product_attention(queries, queries, queries)
    assert output.requires_grad
    assert live.now == output.numel() * 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r50", "pvtv2b5", "swinl"])  # the others are smaller
def test_published_recipes_fit_in_24_gib_with_one_image(name: str) -> None:
    recipe = load_recipe(name)
    plan = replace(MemoryPlan.of(recipe.train), images_per_forward=1)
    size = max(recipe.data.train_short_sides), recipe.data.long_side
    assert least_memory(recipe, plan, COCO, size).total < 0.8 * 24 * GIB


@pytest.mark.slow
def test_what_cannot_fit_is_refused_before_the_run_folder_exists(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    monkeypatch.setattr(lower_bound, "device_memory", lambda _: 24.0 * GIB)
    recipe, out = small_recipe(scenes, *LARGE, "train.images_per_forward=2", "train.batch_size=2"), tmp_path / "run"
    with pytest.raises(RecipeError) as caught:
        train(recipe, TrainOptions(out), ALONE, StopAfter())
    assert str(caught.value).startswith("a training step needs at least ")
    assert "for 2 images of 16384 x 16384 pixels (weights and optimizer " in str(caught.value)
    assert str(caught.value).endswith(
        "but a process can use 25.8 GB; use smaller images (data.train_short_sides, data.long_side), "
        "train.images_per_forward=1, train.checkpoint=[encoder, stuff_masks, thing_masks, location_decoder, backbone], "
        "train.precision=bf16 or --fit-memory"
    )
    assert not out.exists()
    with pytest.raises(RecipeError, match=r"at least .* even with all parts checkpointed .*--fit-memory allows 5.0 GB"):
        train(recipe, TrainOptions(out, fit_memory=5e9), ALONE, StopAfter())
    assert torch.equal(torch.get_rng_state(), before)


def test_small_images_and_unknown_memory_are_not_checked(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lower_bound, "least_memory", lambda *_: pytest.fail("checked"))
    monkeypatch.setattr(lower_bound, "device_memory", lambda _: 24.0 * GIB)
    check_fits(small_recipe(scenes), ALONE)
    monkeypatch.setattr(lower_bound, "device_memory", lambda _: None)
    check_fits(small_recipe(scenes, *LARGE), ALONE)


def test_the_usual_size_is_the_median_at_the_largest_short_side(scenes: Path) -> None:
    data = CocoPanoptic(scenes, "train")  # 64 x 64 pixels
    for overrides, expected in (
        ((), (96, 96)),
        (("data.long_side=80", "data.train_short_sides=[64,80]"), (80, 80)),
        (("data.scale_jitter=[0.1,2]",), (96, 96)),
        (("data.scale_jitter=[0.1,0.9]",), (48, 48)),
        (("data.crop_probability=1", "data.crop_range=[300,600]"), (60, 120)),
    ):
        sides = ("data.long_side=120", "data.train_short_sides=[64,96]")
        assert usual_size(data, small_recipe(scenes, *sides, *overrides).data) == expected
