"""A model with random weights that finds something: what can be timed where no trained weights are at hand.

Freshly initialised, every class has a probability of 1 % and most masks are empty, so that merging would have nothing
to do. The last linears of masks and classes are stretched until about as many candidates reach the score threshold as
in a photograph; everything before them stays as it is initialised. The masks are still noise, and much alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.scenes.generator import SceneOptions, generate_scene
from panformer_cli.data.transforms import normalise
from panformer_cli.models.build import build_model
from panformer_cli.models.panoptic_segformer.network import PanopticOutput, PanopticSegFormer
from panformer_cli.models.panoptic_segformer.postprocessing import InferenceSelection
from panformer_cli.recipe import InferenceRecipe, Recipe

THINGS, STUFF = 20, 10
"""Candidates whose class score reaches the threshold in the scene that the weights are made for."""
FOREGROUND = 0.2
"""Share of all mask values that are above the threshold of 0.5; their mean becomes 1."""

_SCENE_SIDE = 256  # pixels
_FAINT = 5  # the least of the candidates has a class score of the threshold over this
_ALL_POSITIVE = 16.0  # as bias of a mask: the ReLU after it cuts nothing off


def random_model(recipe: Recipe, categories: CategoryTable, seed: int = 0) -> PanopticSegFormer:
    """A model in evaluation mode, on the CPU; equal arguments give equal weights.

    The random state of torch is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(recipe.model, categories, pretrained=False).eval()
    _enliven(model, recipe.inference)
    return model


@torch.no_grad()
def _enliven(model: PanopticSegFormer, recipe: InferenceRecipe) -> None:
    mask_heads = [_last_linear(decoder) for decoder in (model.thing_mask_decoder, model.stuff_mask_decoder)]
    for head in mask_heads:
        nn.init.constant_(head.bias, _ALL_POSITIVE)
    output = _output_for_a_scene(model, recipe)
    for head, masks in zip(mask_heads, (output.things.masks[-1], output.stuff.masks[-1]), strict=True):
        _stretch_masks(head, masks)
    threshold = min(max(recipe.score_threshold, 0.01), 0.99)
    _stretch_classes(
        model.location_decoder.class_branches[-1], output.location.class_logits[-1], (THINGS, recipe.top_k), threshold
    )
    stuff = output.stuff_logits[-1]
    _stretch_classes(model.stuff_queries.class_branches[-1], stuff, (STUFF, stuff.numel()), threshold)


def _last_linear(decoder: nn.Module) -> nn.Linear:
    layer = decoder.get_submodule("tail.mask_head.output")
    assert isinstance(layer, nn.Linear)
    return layer


def _output_for_a_scene(model: PanopticSegFormer, recipe: InferenceRecipe) -> PanopticOutput:
    options = SceneOptions(height=_SCENE_SIDE, width=_SCENE_SIDE)
    image = normalise(generate_scene(options, "val", 0)[0])[None]
    padding_mask = torch.zeros(1, _SCENE_SIDE, _SCENE_SIDE, dtype=torch.bool)
    output: PanopticOutput = model(image, padding_mask, InferenceSelection(recipe.top_k))
    return output


def _stretch_masks(head: nn.Linear, masks: Tensor) -> None:
    values = masks.flatten().sort(descending=True).values
    if not len(values):
        return
    foreground = values[: max(1, int(FOREGROUND * len(values)))]
    _stretch(head, (float(foreground[-1]), float(foreground.mean())), (0.5, 1.0))


def _stretch_classes(branch: nn.Module, logits: Tensor, ranks: tuple[int, int], threshold: float) -> None:
    """The logits of two ranks, counted from 1, become those of the threshold and of a faint score."""
    assert isinstance(branch, nn.Linear)
    values = logits.flatten().sort(descending=True).values
    if not len(values):
        return
    clear, faint = (float(values[min(rank, len(values)) - 1]) for rank in ranks)
    _stretch(branch, (faint, clear), (_logit(threshold / _FAINT), _logit(threshold)))


def _stretch(layer: nn.Linear, given: tuple[float, float], wanted: tuple[float, float]) -> None:
    """The two outputs `given` become `wanted`, and all others lie on the same straight line."""
    slope = (wanted[1] - wanted[0]) / max(given[1] - given[0], 1e-3)
    layer.weight.mul_(slope)
    layer.bias.mul_(slope).add_(wanted[1] - slope * given[1])


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
