"""`panformer train`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.options import INTERRUPTED, Compute, compute_options

if TYPE_CHECKING:
    from panformer_cli.engine.training.train import RunResult


def check_recipe(recipe: str, overrides: tuple[str, ...], resume: bool, **_: Any) -> None:
    """Raise RecipeError if a recipe and its overrides cannot be used."""
    from panformer_cli.recipe_checks import check_run
    from panformer_cli.recipe_io import load_recipe

    check_run(load_recipe(recipe, overrides), is_new=not resume)


@click.command()
@click.argument("recipe", metavar="RECIPE")
@functools.partial(compute_options, first=check_recipe)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Run folder. [default: runs/<recipe>/<time>]"
)
@click.option("--resume", is_flag=True, help="Resume the run in --out, or the newest run of this recipe.")
@click.option(
    "--init-from",
    type=click.Path(path_type=Path),
    metavar="CHECKPOINT",
    help="Initialize from a checkpoint: a file, a run folder or the name of published weights.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting, such as train.lr=1e-4; can be repeated.",
)
def train(
    recipe: str,
    compute: Compute,
    out: Path | None,
    resume: bool,
    init_from: Path | None,
    overrides: tuple[str, ...],
) -> int:
    """Train a model from a recipe.

    RECIPE is a YAML file or the name of a built-in recipe, such as tiny or r50.

    \b
    panformer train tiny --set data.root=data/scenes
    panformer train r50 --gpus 8 --set data.root=/data/coco
    panformer train r50 --set data.root=/data/coco --set train.max_steps=100

    The run folder gets the resolved recipe, metrics.jsonl, environment.json and the checkpoints `last` and `best` (by
    PQ). Ctrl-C saves a checkpoint before it stops; --resume continues from it.
    """
    from panformer_cli.engine.runs import find_checkpoint
    from panformer_cli.engine.training.train import TrainOptions
    from panformer_cli.engine.training.train import train as run_training
    from panformer_cli.recipe_io import load_recipe

    with compute.joined() as (process, reporter):
        weights = None
        if init_from is not None:
            weights = process.on_first(lambda: find_checkpoint(init_from, reporter))
        options = TrainOptions(out, resume, weights)
        result = run_training(load_recipe(recipe, overrides), options, process, reporter)
        if not result.ended:
            reporter.message(_stopped(result, compute))
            return INTERRUPTED
        click.echo(f"Best checkpoint: {result.run.checkpoint}")
        return 0


def _stopped(result: RunResult, compute: Compute) -> str:
    """Return the message for an interrupted run: what was saved and how to resume."""
    run = result.run
    if result.saved_step is None:
        return "Stopped before a checkpoint was saved; rerun the same command to start over"
    command = compute.command("train", str(run.recipe), "--resume", "--out", str(run.path))
    return f"Stopped; step {result.saved_step} of {result.total_steps} is saved; resume with: {command}"
