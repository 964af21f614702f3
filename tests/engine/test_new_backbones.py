"""Recipes with timm's backbones in the whole engine: train, resume, evaluate, benchmark, and load the state dict.

The real architecture of a ConvNeXt recipe takes too long here. `tests/test_recipes.py` builds it without memory.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from panformer_cli.engine.checkpoints.checkpoint import load_model, read_checkpoint
from panformer_cli.models.build import build_model
from panformer_cli.recipe_io import load_recipe
from tests.engine.small import SMALL, run_command, small_scenes
from tests.models.panoptic_segformer.small import images_of, no_padding


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe_name", "backbone", "extra"),
    [
        ("convnext_tiny", "timm/convnext_atto", ()),
        ("convnext_base_dinov3", "timm/convnext_atto", ("train.freeze=[backbone]", "model.drop_path=0")),
        ("efficientnet_lite0", "timm/efficientnet_lite0.ra_in1k", ("model.frozen_batch_norm=false",)),
    ],
)
def test_a_recipe_is_trained_resumed_evaluated_benchmarked_and_loaded(
    recipe_name: str, backbone: str, extra: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, folder = small_scenes(tmp_path / "scenes"), tmp_path / "run"
    settings = [*SMALL, f"data.root={data}", f"model.backbone={backbone}", "train.epochs=2", *extra]
    settings += ["model.backbone_weights=none", "model.mask_bias=0.5", "data.crop_probability=0"]
    settings += ["data.train_split=train", "data.val_split=val", "train.batch_size=2", "train.images_per_forward=1"]
    overrides = [word for setting in settings for word in ("--set", setting)]
    on = (*overrides, "--out", folder, "--device", "cpu")

    run_command("train", recipe_name, *on, "--set", "train.max_steps=3")
    assert read_checkpoint(folder / "last.safetensors").progress.step == 3
    run_command("train", recipe_name, *on, "--resume", "--set", "train.max_steps=null")
    checkpoint = read_checkpoint(folder / "last.safetensors")
    assert checkpoint.progress.step == 8
    assert (checkpoint.recipe.model.backbone, checkpoint.recipe.model.frozen_stages) == (backbone, 0)
    ours = load_recipe(recipe_name).train
    assert (checkpoint.recipe.train.layer_decay, checkpoint.recipe.train.lr) == (ours.layer_decay, ours.lr)

    run_command("evaluate", folder, "--out", tmp_path / "evaluation", "--device", "cpu")
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["images"] == 4

    capsys.readouterr()
    run_command("benchmark", folder, "--size", "64x96", "--repeat", "1", "--json", "--device", "cpu")
    measured = json.loads(capsys.readouterr().out)
    assert measured["images_per_second"] > 0

    trained = load_model(checkpoint).eval()
    torch.save(trained.state_dict(), tmp_path / "state.pth")
    recipe = checkpoint.recipe
    fresh = build_model(recipe.model, recipe.inference, checkpoint.categories, pretrained=False).eval()
    images = images_of(1, (64, 96))
    with torch.no_grad():
        expected = trained.infer(images, no_padding(images))
        assert not torch.equal(fresh.infer(images, no_padding(images))[3], expected[3])
        fresh.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
        for ours, theirs in zip(fresh.infer(images, no_padding(images)), expected, strict=True):
            assert torch.equal(ours, theirs)
