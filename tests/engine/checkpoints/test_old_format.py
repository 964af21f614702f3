"""A checkpoint of panformer 0.1.0, whose recipe has no model family, still loads and resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from panformer_cli.engine.checkpoints.checkpoint import (
    load_model,
    load_optimizer_state,
    read_checkpoint,
    read_training_state,
)
from panformer_cli.engine.training.optimizer import build_optimizer
from panformer_cli.models.panoptic_segformer.settings import MergingSettings, PanopticSegFormerSettings

DESCRIPTION = Path(__file__).parent / "data" / "last_0.1.0.json"
"""Metadata, names, types and shapes of a `last.safetensors`; the numbers do not matter."""
DTYPES = {"F32": torch.float32, "I64": torch.int64, "U8": torch.uint8}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    content = json.loads(DESCRIPTION.read_text())
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=generator).abs().to(DTYPES[dtype])
        for name, (dtype, shape) in content["tensors"].items()
    }
    path = tmp_path_factory.mktemp("old") / "last.safetensors"
    save_file(tensors, path, content["__metadata__"])
    return path, tensors


@pytest.mark.slow
def test_the_metadata_is_read(old: tuple[Path, dict[str, torch.Tensor]]) -> None:
    checkpoint = read_checkpoint(old[0])
    assert isinstance(checkpoint.recipe.model, PanopticSegFormerSettings)
    assert checkpoint.recipe.model.family == "panoptic_segformer"
    assert checkpoint.recipe.model.embed_dim == 32
    assert checkpoint.recipe.inference == MergingSettings(score_threshold=0.3)
    assert checkpoint.recipe.data.root == "/data/scenes"
    assert [row.name for row in checkpoint.categories.categories] == ["cat", "dog", "sky"]
    assert checkpoint.progress.step == 12
    assert checkpoint.progress.best_pq == 34.5


@pytest.mark.slow
def test_every_tensor_is_loaded(old: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, tensors = old
    checkpoint = read_checkpoint(path)
    model = load_model(checkpoint)
    state = model.state_dict()
    assert {f"model.{name}" for name in state} == {name for name in tensors if name.startswith("model.")}
    assert all(torch.equal(tensor, tensors[f"model.{name}"]) for name, tensor in state.items())
    optimizer = build_optimizer(model, checkpoint.recipe.train)
    load_optimizer_state(model, optimizer, read_training_state(checkpoint).optimizer)
    moments = {
        f"optimizer.{name}.exp_avg": optimizer.state[parameter]["exp_avg"]
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert len(moments) > 100
    assert all(torch.equal(moment, tensors[name]) for name, moment in moments.items())
