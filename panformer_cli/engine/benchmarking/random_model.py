"""A model with random weights that predicts segments, to benchmark without trained weights."""

from __future__ import annotations

import torch

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.scenes.generator import SceneOptions, generate_scene
from panformer_cli.data.transforms import normalize
from panformer_cli.models.base import PanopticModel
from panformer_cli.models.build import build_model
from panformer_cli.models.layers.sampling import SamplingName
from panformer_cli.recipe import Recipe

SCENE_SIDE = 256
"""Side of the scene in pixels; at this size about as many segments are predicted as in a photograph."""


def random_model(
    recipe: Recipe, categories: CategoryTable, sampling: SamplingName = "auto", seed: int = 0
) -> PanopticModel:
    """Return a model in evaluation mode, on the CPU; equal arguments give equal weights.

    The random state of torch does not change.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(recipe.model, recipe.inference, categories, pretrained=False, sampling=sampling).eval()
    options = SceneOptions(height=SCENE_SIDE, width=SCENE_SIDE)
    model.spread_scores(normalize(generate_scene(options, "val", 0)[0])[None], recipe.inference)
    return model
