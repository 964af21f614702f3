"""Find tensors on the wrong device in the models of all recipes, without a GPU (see `fake_gpu`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.structures import Batch, Targets
from panformer_cli.engine.inference import Predictor
from panformer_cli.models.base import LossCounts, PanopticModel
from panformer_cli.models.build import build_model
from panformer_cli.models.families import FAMILIES
from panformer_cli.models.layers.deformable_attention import DeformableAttention
from panformer_cli.models.layers.sampling import DeformableSampling
from panformer_cli.models.layers.sampling.portable import gather_sampling, grid_sampling
from panformer_cli.models.layers.sampling.triton import triton_sampling
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import built_in_recipes, load_recipe
from tests.models.fake_gpu import GPU, autocast_on_gpu, fake_gpu, with_values

CANVAS = (128, 160)
SMALLER = (100, 131)
STUFF = COCO.num_things
SHALLOWER = {"resnet101": "resnet50", "pvt_v2_b2": "pvt_v2_b0", "pvt_v2_b5": "pvt_v2_b0", "swin_large": "swin_tiny"}
CONVNEXT = "timm/convnext_atto"
"""Backbones of the same layers. More layers do nothing else on a device, and fake tensors are slow."""
FEWEST = ("encoder_layers", "location_layers", "thing_mask_layers", "stuff_mask_layers")


def recipe_of(name: str) -> Recipe:
    """Return a recipe with two layers of each kind and a backbone that is not deeper than it has to be."""
    layers = [field for field in FEWEST if hasattr(load_recipe(name).model, field)]
    recipe = load_recipe(name, ["model.backbone_weights=none", *(f"model.{field}=2" for field in layers)])
    backbone = recipe.model.backbone
    shallower = CONVNEXT if backbone.startswith("timm/convnext") else SHALLOWER.get(backbone, backbone)
    drop_path = 0.1 if recipe.model.drop_path else 0.0
    return replace(recipe, model=replace(recipe.model, backbone=shallower, drop_path=drop_path))


def different_models() -> list[str]:
    """Return a recipe's name for each of the models that the recipes have then."""
    return list(
        {(repr(recipe_of(name).model), repr(recipe_of(name).inference)): name for name in built_in_recipes()}.values()
    )


MODELS = different_models()
THOROUGH = "tiny"
"""The model that runs with every sampling and precision, which do not depend on backbone or categories."""
assert THOROUGH in MODELS

every_model = pytest.mark.parametrize("name", MODELS)
every_trained_model = pytest.mark.parametrize(
    "name", [name for name in MODELS if FAMILIES[load_recipe(name).model.family].trainable]
)


def model_of(recipe: Recipe) -> PanopticModel:
    """Return the recipe's model without data, in evaluation mode."""
    with torch.device("meta"):
        return build_model(recipe.model, recipe.inference, COCO, pretrained=False, sampling="portable").eval()


def use_sampling(model: nn.Module, sampling: DeformableSampling) -> None:
    attentions = [module for module in model.modules() if isinstance(module, DeformableAttention)]
    for attention in attentions:
        attention.sampling = sampling


def targets_of(size: tuple[int, int], labels: list[int]) -> Targets:
    masks = torch.zeros(len(labels), *size, dtype=torch.bool, device=GPU)
    return Targets(with_values(labels), torch.zeros(len(labels), 4, device=GPU), masks)


def batch_of(*targets: Targets) -> Batch:
    padding_mask = torch.zeros(len(targets), *CANVAS, dtype=torch.bool, device=GPU)
    return Batch(torch.zeros(len(targets), 3, *CANVAS, device=GPU), padding_mask, list(targets))


def assert_on_gpu(tensors: Sequence[Tensor]) -> None:
    assert tensors
    assert {tensor.device for tensor in tensors} == {GPU}


@pytest.mark.slow
@every_model
def test_inference_stays_on_the_gpu(name: str) -> None:
    model = model_of(recipe_of(name))
    with fake_gpu(), torch.inference_mode():
        model.to(GPU)
        batch = batch_of(targets_of(CANVAS, []), targets_of(CANVAS, []))
        forms = [
            (triton_sampling, torch.float16),
            (grid_sampling, torch.float32),
            (gather_sampling, torch.bfloat16),
        ]
        for sampling, dtype in forms if name == THOROUGH else forms[:1]:
            use_sampling(model, sampling)
            with autocast_on_gpu(dtype):
                output = model.infer(batch.images, batch.padding_mask)
            assert_on_gpu(output)


@pytest.mark.slow
@every_trained_model
def test_losses_stay_on_the_gpu(name: str) -> None:
    """The images have things and stuff, only stuff in two segments, and no segments."""
    model = model_of(recipe_of(name)).train()
    with fake_gpu():
        model.to(GPU)
        images = [(CANVAS, [0, 3, 3, STUFF, STUFF + 2]), (SMALLER, [STUFF + 1, STUFF + 1]), (SMALLER, [])]
        batch = batch_of(*(targets_of(size, labels) for size, labels in images))
        for dtype in (torch.bfloat16, torch.float32) if name == THOROUGH else (torch.bfloat16,):
            with autocast_on_gpu(dtype):
                losses = model(batch, LossCounts(1.0, 1.0))
            assert_on_gpu(list(losses.values()))
            assert all(loss.dtype == torch.float32 and loss.requires_grad for loss in losses.values())


@pytest.mark.slow
@every_model
def test_prediction_from_cpu_images_to_a_merged_map(name: str) -> None:
    """With the optimized model. The masks are zeros on the CPU."""
    recipe = recipe_of(name)
    model = model_of(recipe)
    model.optimize_for_inference()
    with fake_gpu():
        predictor = Predictor(model, recipe, GPU)
        first, second = predictor.predict_all([np.zeros((90, 120, 3), np.uint8)] * 2)
        for prediction in (first, second):
            assert prediction.panoptic.ids.shape == (90, 120)
            assert prediction.panoptic.segments == ()


@pytest.mark.slow
def test_spread_scores_stays_on_the_gpu_until_it_reads_a_value() -> None:
    recipe = recipe_of("tiny")
    model = model_of(recipe)
    with fake_gpu(), pytest.raises(DataDependentOutputException, match="local_scalar_dense"):
        model.to(GPU).spread_scores(torch.zeros(1, 3, *CANVAS, device=GPU), recipe.inference)


def test_all_tensors_of_a_batch_are_moved() -> None:
    with fake_gpu():
        targets = Targets(torch.zeros(2, dtype=torch.int64), torch.zeros(2, 4), torch.zeros(2, 8, 8, dtype=torch.bool))
        batch = Batch(torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.bool), [targets]).to(GPU)
        moved = batch.targets[0]
        assert_on_gpu([batch.images, batch.padding_mask, moved.labels, moved.boxes, moved.masks])


class TensorOnCpu(nn.Module):
    """Wrong: creates a tensor on the CPU in `forward`."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(3.0)


class NoBuffer(nn.Module):
    """Wrong: `module.to` does not move its tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones(3)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class RightDevice(nn.Module):
    """Right: one tensor is a buffer, the other is created on the input's device."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + torch.arange(3.0, device=x.device)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("wrong", [TensorOnCpu, NoBuffer])
def test_tensors_on_the_wrong_device_are_found(wrong: Callable[[], nn.Module], device: str) -> None:
    with torch.device(device):
        module, right = wrong(), RightDevice()
    with fake_gpu():
        x = torch.zeros(2, 3, device=GPU)
        assert_on_gpu([right.to(GPU)(x)])
        with pytest.raises(Exception, match="device"):
            module.to(GPU)(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_is_enabled(dtype: torch.dtype) -> None:
    """Otherwise the tests above would not test autocast."""
    with fake_gpu():
        layer = nn.Linear(4, 4).to(GPU)
        with autocast_on_gpu(dtype):
            assert layer(torch.zeros(2, 4, device=GPU)).dtype == dtype
        assert layer(torch.zeros(2, 4, device=GPU)).dtype == torch.float32


def test_tensors_copied_to_the_cpu_are_zero_and_labels_are_known() -> None:
    with fake_gpu():
        host: Any = torch.ones(2, 3, device=GPU).cpu()
        assert host.numpy().tolist() == [[0.0] * 3] * 2
        assert with_values([4, 2]).tolist() == [4, 2]
    assert torch.ones(2).cpu().tolist() == [1.0, 1.0]
