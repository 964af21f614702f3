"""A small data set, an even smaller version of the recipe `tiny`, and runs of it; a step takes under a second."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from panformer_cli.cli.main import main
from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.scenes.generator import write_scenes
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.engine.checkpoints.checkpoint import TrainProgress, save_checkpoint
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.models.build import build_model
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import load_recipe
from panformer_cli.reporting import Progress, SilentReporter

BACKBONE = "timm/lcnet_035"
"""Few weights: a ResNet-18 takes most of the time of a run for updating and saving its 11 million."""
SMALL = (
    f"model.backbone={BACKBONE}",
    "model.embed_dim=64",
    "model.heads=4",
    "model.feedforward_dim=64",
    "model.encoder_layers=1",
    "model.location_layers=2",
    "model.thing_mask_layers=1",
    "model.stuff_mask_layers=1",
    "model.thing_queries=10",
    "data.short_side=64",
    "data.long_side=64",
    "data.train_short_sides=[64]",
    "data.workers=0",
    "train.schedule=step",
    "train.drop_epochs=[]",
    "train.warmup_steps=0",
    "train.log_every=1",
    "inference.score_threshold=0.0",
)
"""Overrides of `tiny`. The score threshold is low, so that predictions have segments after a few steps."""


ALONE = Process.single()


def small_scenes(root: Path, train_images: int = 8, val_images: int = 4) -> Path:
    """Write scenes of 64 x 64 pixels and return `root`."""
    options = SceneOptions(train_images, val_images, height=64, width=64, image_format="png")
    write_scenes(root, options, SilentReporter())
    return root


def small_recipe(data: Path, *overrides: str) -> Recipe:
    return load_recipe("tiny", [*SMALL, f"data.root={data}", *overrides])


def small_checkpoint(path: Path, data: Path, *overrides: str) -> Path:
    """Save random weights as a checkpoint, without a training run, and return `path`."""
    recipe, categories = small_recipe(data, *overrides), categories_of(data)
    model = build_model(recipe.model, recipe.inference, categories)
    save_checkpoint(path, model, recipe, categories, TrainProgress())
    return path


def categories_of(data: Path) -> CategoryTable:
    return CocoPanoptic(data, "train").categories


class StopAfter(SilentReporter):
    """A reporter that keeps messages and warnings, and calls `stop` after `steps` steps of the bar `Training`.

    A reporter is called by the training itself, in its own thread, so that nothing is left to chance.
    """

    def __init__(self, steps: int = 0, stop: object = None) -> None:
        self.steps, self.stop = steps, stop
        self.messages: list[str] = []
        self.warnings: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, what: str, total: int, done: int = 0) -> AbstractContextManager[Progress]:
        return nullcontext(self) if what == "Training" else super().progress(what, total, done)

    def advance(self, steps: int = 1, status: str = "") -> None:
        self.steps -= steps
        if self.steps == 0 and callable(self.stop):
            self.stop()


def run_small(recipe: Recipe, out: Path, resume: bool = False) -> Path:
    """Train to the end and return the folder of the run."""
    return train(recipe, TrainOptions(out, resume), ALONE, SilentReporter()).run.path


def run_command(*arguments: object) -> None:
    """Run `panformer ARGUMENTS`, which must succeed."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert not ended.value.code
