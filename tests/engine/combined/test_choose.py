"""Options that a model family does not support are refused in one sentence."""

from __future__ import annotations

import pytest
import torch

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.engine.combined.choose import with_options
from panformer_cli.engine.combined.options import InferenceOptions, parse_views
from panformer_cli.engine.inference import Predictor
from panformer_cli.errors import PanformerError
from panformer_cli.recipe import Recipe
from tests.pixel_family import PixelClassifier, PixelSettings, PixelThresholds


@pytest.fixture(scope="module")
def pixels() -> Predictor:
    settings = PixelSettings(backbone="timm/lcnet_035", backbone_weights="none", frozen_stages=0)
    recipe = Recipe(name="pixels", model=settings, inference=PixelThresholds())
    model = PixelClassifier(settings, CategoryTable([Category(1, "cat", True)]))
    return Predictor(model, recipe, torch.device("cpu"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (InferenceOptions(tile=64), "--tile cannot be used: the model family per_pixel does not predict scored masks"),
        (InferenceOptions(views=parse_views("flip")), "--tta cannot be used: the model family per_pixel"),
        (InferenceOptions(tile=64, views=parse_views("flip")), "--tile and --tta cannot be used"),
        (InferenceOptions(mask_layers=2), "--mask-layers is 2, but the layers of this model family have no masks"),
    ],
)
def test_a_family_without_masks_or_mask_layers(pixels: Predictor, options: InferenceOptions, message: str) -> None:
    with pytest.raises(PanformerError, match=message):
        with_options(pixels, options)


def test_the_defaults_change_nothing(pixels: Predictor) -> None:
    assert with_options(pixels, InferenceOptions()) is pixels
    assert with_options(pixels, InferenceOptions(views=parse_views("1"))) is pixels
    assert pixels.described((64, 64)) == {}
    assert pixels.notes() == []
