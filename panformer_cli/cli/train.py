"""`panformer train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from panformer_cli.cli.options import INTERRUPTED, Compute, compute_options

if TYPE_CHECKING:
    from panformer_cli.engine.train import RunResult


@click.command()
@click.argument("recipe", metavar="RECIPE")
@compute_options
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the run [runs/<recipe>/<time>].")
@click.option("--resume", is_flag=True, help="Resume the run in --out, or the newest one of this recipe.")
@click.option(
    "--init-from",
    type=click.Path(path_type=Path),
    metavar="CHECKPOINT",
    help="Begin with the weights of a file, a run's folder or a published name.",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting, e.g. train.lr=1e-4.")
def train(
    recipe: str,
    compute: Compute,
    out: Path | None,
    resume: bool,
    init_from: Path | None,
    overrides: tuple[str, ...],
) -> int:
    """Train a model from RECIPE: a file, or a built-in recipe such as tiny or r50.

    \b
    panformer train tiny --set data.root=data/scenes
    panformer train r50 --gpus 8 --set data.root=/data/coco
    panformer train r50 --set data.root=/data/coco --set train.max_steps=100

    The run goes to runs/<recipe>/<time>/: the resolved recipe, metrics.jsonl, environment.json and the checkpoints
    `last` and `best` (by PQ). Ctrl-C saves first; --resume goes on from there.
    """
    from panformer_cli.engine.runs import find_checkpoint
    from panformer_cli.engine.train import TrainOptions
    from panformer_cli.engine.train import train as run_training
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
    """Return what to do after a run was stopped."""
    run = result.run
    if result.saved_step is None:
        return "Stopped before a checkpoint was saved; the same command starts again"
    command = compute.command("train", str(run.recipe), "--resume", "--out", str(run.path))
    return f"Stopped; step {result.saved_step} of {result.total_steps} is saved; resume with: {command}"
