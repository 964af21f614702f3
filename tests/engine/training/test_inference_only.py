"""A model family that is inference only is refused before anything of a run exists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from panformer_cli.api.training import train as train_from_python
from panformer_cli.engine.training.dry_run import dry_run
from panformer_cli.engine.training.start import StartRequest, plan_start
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.errors import CheckpointError, PanformerError, RecipeError
from panformer_cli.models.build import build_model
from panformer_cli.models.families import FAMILIES
from panformer_cli.recipe_io import load_recipe
from panformer_cli.reporting import SilentReporter
from tests.engine.small import ALONE
from tests.helpers import run
from tests.pixel_family import PixelFamily

RECIPE = "name: pixels\nmodel: {family: per_pixel, backbone: resnet18}\ndata: {root: data}\n"
REFUSAL = (
    "the recipe pixels cannot be trained: its model family, per_pixel, is inference only; use a recipe of the family "
    "panoptic_segformer, such as r50"
)


class Frozen(PixelFamily):
    trainable = False


@pytest.fixture(autouse=True)
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(FAMILIES, "per_pixel", Frozen())
    path = Path("pixels.yaml")
    path.write_text(RECIPE)
    return path


STARTS: list[Callable[[Path], object]] = [
    lambda path: train(load_recipe(str(path)), TrainOptions(Path("new")), ALONE, SilentReporter()),
    lambda path: train(load_recipe(str(path)), TrainOptions(Path("new"), resume=True), ALONE, SilentReporter()),
    lambda path: dry_run(load_recipe(str(path)), ALONE, SilentReporter()),
    lambda path: plan_start(StartRequest(str(path), init_from=Path("missing")), SilentReporter()),
    lambda path: plan_start(StartRequest(str(path), resume="auto"), SilentReporter()),
    lambda path: train_from_python(path, out="new", verbose=False),
]


@pytest.mark.parametrize("start", STARTS)
def test_nothing_starts_training(start: Callable[[Path], object], recipe: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        start(recipe)
    assert str(caught.value) == REFUSAL
    assert list(Path().iterdir()) == [recipe]


@pytest.mark.parametrize(
    "words",
    [
        ["train", "pixels.yaml"],
        ["train", "pixels.yaml", "--out", "new", "--dry-run"],
        ["train", "pixels.yaml", "--resume"],
        ["train", "pixels.yaml", "--resume", "auto"],
        ["train", "pixels.yaml", "--init-from", "missing.pth"],
        ["train", "pixels.yaml", "--gpus", "2"],
        ["train", "pixels.yaml", "--slurm", "nodes=2"],
        ["recipes", "check", "pixels.yaml"],
    ],
)
def test_every_command_says_so_in_one_sentence(
    words: list[str], recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2
    assert " ".join(capsys.readouterr().err.split()) == f"Error: {REFUSAL}"
    assert list(Path().iterdir()) == [recipe]


def test_a_folder_with_such_a_recipe_is_not_resumed(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Such as the folder that `weights import` writes."""
    Path("imported").mkdir()
    recipe.rename("imported/recipe.yaml")
    assert run("train", "--resume", "imported") == 2
    assert REFUSAL in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_weights_of_another_family_are_not_initial_weights() -> None:
    from panformer_cli.data.categories import Category, CategoryTable
    from panformer_cli.engine.checkpoints.checkpoint import TrainProgress, save_checkpoint

    table, pixels = CategoryTable([Category(1, "cat", True)]), load_recipe("pixels.yaml", ["model.frozen_stages=0"])
    model = build_model(pixels.model, pixels.inference, table, pretrained=False)
    save_checkpoint(Path("pixels.safetensors"), model, pixels, table, TrainProgress())
    options = TrainOptions(Path("new"), init_from=Path("pixels.safetensors"))
    with pytest.raises(CheckpointError) as caught:
        train(load_recipe("tiny", ["data.root=x"]), options, ALONE, SilentReporter())
    assert str(caught.value) == (
        "--init-from: pixels.safetensors has a model of the family per_pixel, but the recipe tiny is of the family "
        "panoptic_segformer; give a checkpoint of the same family"
    )
    assert isinstance(caught.value, PanformerError)
    assert not Path("new").exists()
