"""A dry run reports what a run would do, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from panformer_cli.engine.training.dry_run import dry_run
from panformer_cli.errors import RecipeError
from panformer_cli.models.build import build_model
from panformer_cli.recipe import Recipe
from tests.engine.small import ALONE, SMALL, StopAfter, categories_of, small_recipe, small_scenes
from tests.helpers import files_of, run


@pytest.mark.slow
def test_a_dry_run_reports_the_run_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, folder = small_scenes(tmp_path / "data", 10, 3), tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    before = files_of(data)
    recipe = small_recipe(data, "train.images_per_forward=2", "train.epochs=3", "train.evaluate_every=3")
    found = dry_run(recipe, ALONE, StopAfter())
    # By hand: 10 images are 2 steps of 4 images, each of 2 forward passes.
    assert (found.training_images, found.validation_images) == (10, 3)
    assert (found.steps_per_epoch, found.total_steps) == (2, 6)
    assert found.inputs == [(2, 3, 64, 64), (2, 3, 64, 64)]
    assert found.forward_input == (1, 3, 64, 64)
    assert found.parameters == found.trained == parameters_of(recipe, data)
    assert found.segments > 0
    assert found.loss > 0
    assert found.forward_flops > 1e7
    assert found.epoch_seconds == pytest.approx(2 * found.step_seconds + 3 * found.evaluation_seconds / 3)
    if found.peak_mib is not None:
        assert found.peak_mib > 4 * 4 * found.parameters / 2**20  # weights, gradients, two moments in float32
    assert files_of(data) == before
    assert list(folder.iterdir()) == []

    overrides = [word for setting in (*SMALL, f"data.root={data}") for word in ("--set", setting)]
    assert run("train", "tiny", *overrides, "--dry-run", "--device", "cpu") == 0
    out = capsys.readouterr().out
    assert "Run:         4 steps, 2 steps per epoch" in out
    assert "Nothing was written" in out
    assert list(folder.iterdir()) == []


def parameters_of(recipe: Recipe, data: Path) -> int:
    with torch.device("meta"):
        model = build_model(recipe.model, recipe.inference, categories_of(data), pretrained=False)
    return sum(parameter.numel() for parameter in model.parameters())


def test_a_dry_run_refuses_what_a_run_refuses(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="train.drop_epochs is"):
        dry_run(small_recipe(tmp_path, "train.drop_epochs=[9]"), ALONE, StopAfter())


@pytest.mark.parametrize("words", [["tiny", "--resume", "--set", "data.root=x"], ["--resume", "run"]])
def test_a_dry_run_is_not_resumed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", *words, "--dry-run") == 2
    assert "--dry-run needs a recipe, and cannot be used with --resume" in capsys.readouterr().err
