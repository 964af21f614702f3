"""Backbones without a recipe in the whole engine: train, resume, evaluate, and load the state dict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from panformer_cli.engine.checkpoints.checkpoint import load_model, read_checkpoint
from panformer_cli.models.build import build_model
from tests.engine.small import SMALL, run_command, small_scenes
from tests.models.panoptic_segformer.small import images_of, no_padding


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "frozen"), [("timm/convnext_atto", True), ("timm/tf_efficientnet_lite0", False)])
def test_a_new_backbone_is_trained_resumed_evaluated_and_loaded(backbone: str, frozen: bool, tmp_path: Path) -> None:
    data, folder = small_scenes(tmp_path / "scenes"), tmp_path / "run"
    settings = [*SMALL, f"data.root={data}", f"model.backbone={backbone}", "train.epochs=2"]
    settings += [f"model.frozen_batch_norm={str(frozen).lower()}"]
    settings += ["train.batch_size=2", "train.images_per_forward=1"]
    overrides = [word for setting in settings for word in ("--set", setting)]
    on = (*overrides, "--out", folder, "--device", "cpu")

    run_command("train", "tiny", *on, "--set", "train.max_steps=3")
    assert read_checkpoint(folder / "last.safetensors").progress.step == 3
    run_command("train", "tiny", *on, "--resume", "--set", "train.max_steps=null")
    checkpoint = read_checkpoint(folder / "last.safetensors")
    assert checkpoint.progress.step == 8
    assert (checkpoint.recipe.model.backbone, checkpoint.recipe.model.frozen_stages) == (backbone, 0)

    run_command("evaluate", folder, "--out", tmp_path / "evaluation", "--device", "cpu")
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["images"] == 4

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
