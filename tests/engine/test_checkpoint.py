"""Checkpoints: what goes in comes out, and what is no checkpoint is named."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.engine.checkpoint import (
    TrainingState,
    TrainProgress,
    load_model,
    load_optimizer_state,
    load_weights,
    optimizer_state,
    read_checkpoint,
    read_training_state,
    save_checkpoint,
)
from panformer_cli.engine.runs import RunFolder, find_checkpoint
from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.models.build import build_model
from panformer_cli.recipe import ModelRecipe, Recipe
from panformer_cli.recipe_io import recipe_to_dict

CATEGORIES = CategoryTable([Category(7, "ball", True, (1, 2, 3)), Category(2, "box", True), Category(4, "sky", False)])


def random_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def write(path: Path, state: TrainingState | None = None) -> Path:
    save_checkpoint(
        path, random_model(), Recipe(name="mine"), CATEGORIES, TrainProgress(step=5, best_pq=12.5, seconds=3.0), state
    )
    return path


def rewrite(path: Path, change: Callable[[dict[str, str]], Any]) -> Path:
    """Write the checkpoint again with a changed description."""
    metadata = {
        "format": "panformer 1",
        "recipe": json.dumps(recipe_to_dict(Recipe())),
        "categories": json.dumps(CATEGORIES.to_coco()),
        "progress": "{}",
    }
    change(metadata)
    save_file({"model.weight": torch.zeros(1)}, path, metadata)
    return path


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    state = TrainingState({"0.weight.exp_avg": torch.randn(2)}, {"0.cpu": torch.get_rng_state()})
    checkpoint = read_checkpoint(write(tmp_path / "a.safetensors", state))
    assert (checkpoint.recipe, checkpoint.categories) == (Recipe(name="mine"), CATEGORIES)
    assert checkpoint.progress == TrainProgress(step=5, best_pq=12.5, seconds=3.0)
    assert checkpoint.training_state
    back = read_training_state(checkpoint)
    torch.testing.assert_close(back.optimizer, state.optimizer)
    torch.testing.assert_close(back.random, state.random)
    other = random_model(1)
    load_weights(other, checkpoint)
    torch.testing.assert_close(other.state_dict(), random_model().state_dict(), rtol=0, atol=0)


def test_a_model_is_built_from_the_checkpoint_alone(tmp_path: Path) -> None:
    recipe = Recipe(
        model=ModelRecipe(
            "resnet18", "imagenet", 0, embed_dim=64, heads=4, encoder_layers=1, location_layers=1, thing_mask_layers=1,
            stuff_mask_layers=1, thing_queries=5,
        )
    )  # fmt: skip
    model = build_model(recipe.model, CATEGORIES, pretrained=False)
    save_checkpoint(tmp_path / "a.safetensors", model, recipe, CATEGORIES, TrainProgress())
    loaded = load_model(read_checkpoint(tmp_path / "a.safetensors"))
    assert not loaded.training
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_the_optimiser_goes_on_as_if_nothing_had_happened() -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(torch.ones(2, 3) * torch.tensor([[1.0], [2.0]])).square().sum().backward()
        optimizer.step()

    model, copy = random_model(), random_model(1)
    optimizer, fresh = torch.optim.AdamW(model.parameters(), 0.1), torch.optim.AdamW(copy.parameters(), 0.1)
    step(model, optimizer)
    step(copy, fresh)  # its own state, to be overwritten
    copy.load_state_dict(model.state_dict())
    state = {name: value.clone() for name, value in optimizer_state(model, optimizer).items()}
    load_optimizer_state(copy, fresh, state)
    step(model, optimizer)
    step(copy, fresh)
    torch.testing.assert_close(copy.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_weights_alone_are_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a\.safetensors holds weights only, .*--init-from"):
        read_training_state(read_checkpoint(write(tmp_path / "a.safetensors")))


class _Trap:
    """A pickle of this creates the file `path` when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("dump", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_pickle_is_refused_and_not_run(dump: Callable[[Any, Path], Any], tmp_path: Path) -> None:
    path, ran = tmp_path / "model.pth", tmp_path / "ran"
    dump({"state_dict": _Trap(ran)}, path)
    with pytest.raises(
        CheckpointError, match=r"model\.pth: the file holds a pickle, .* not opened; expected a \.safet"
    ):
        read_checkpoint(path)
    assert not ran.exists()
    torch.load(path, weights_only=False) if dump is torch.save else pickle.loads(path.read_bytes())
    assert ran.exists(), "the trap does not work, and so proves nothing"


@pytest.mark.parametrize("kept", [0, 4, 100, 2000, -1])
def test_a_file_cut_short_is_damaged(kept: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"a\.safetensors: the file is damaged, cut short or not in safetensors"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"hello, world", b"\xff" * 64, b"{}"])
def test_another_kind_of_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged, cut short or not in safetensors form"):
        read_checkpoint(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="none.safetensors: no such file; give a checkpoint, a run's folder"):
        read_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="is a folder without best.safetensors or last.safetensors"):
        read_checkpoint(find_checkpoint(tmp_path))
    write(RunFolder(tmp_path).last)
    assert read_checkpoint(find_checkpoint(tmp_path)).progress.step == 5


def test_tensors_of_another_program_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="holds tensors but is no panformer checkpoint; expected a file that"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("recipe", None),
        ("recipe", "{"),
        ("recipe", "[]"),
        ("recipe", '{"model": {"headz": 8}}'),
        ("categories", "[]"),
        ("categories", "null"),
        ("categories", '[{"id": 1}]'),
        ("progress", '{"stepz": 1}'),
        ("progress", "3"),
    ],
)
def test_a_damaged_description_is_one_sentence(key: str, value: str | None, tmp_path: Path) -> None:
    def change(metadata: dict[str, str]) -> None:
        metadata.pop(key)
        if value is not None:
            metadata[key] = value

    path = rewrite(tmp_path / "a.safetensors", change)
    with pytest.raises(PanformerError, match=f"checkpoint {path}: ") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write(tmp_path / "a.safetensors"))
    other = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    with pytest.raises(CheckpointError) as caught:
        load_weights(other, checkpoint)
    said = str(caught.value)
    assert "(recipe mine, 3 categories) does not fit this model: 2." in said
    assert "is not in this model; " in said
    assert said.endswith("more; use the recipe and the categories that it was trained with")


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    tensors = load_file(write(tmp_path / "a.safetensors"))
    del tensors["model.0.weight"]
    path = rewrite(tmp_path / "b.safetensors", lambda metadata: None)
    checkpoint = read_checkpoint(path)
    with pytest.raises(CheckpointError, match="0.weight is missing; 0.bias is missing"):
        load_weights(random_model(), checkpoint)


def test_what_cannot_be_written_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PanformerError, match=r"cannot write .*a\.safetensors: "):
        write(tmp_path / "file" / "a.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
