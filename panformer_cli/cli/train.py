"""`panformer train`."""

from __future__ import annotations

from pathlib import Path

import click

from panformer_cli.cli.options import Compute, compute_options


@click.command()
@click.argument("recipe", metavar="RECIPE")
@compute_options
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the run [runs/<recipe>/<time>].")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, or with the newest one of this recipe.")
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
) -> None:
    """Train a model from RECIPE: a file, or a built-in recipe such as tiny or r50.

    \b
    panformer train tiny --set data.root=data/scenes
    panformer train r50 --gpus 8 --set data.root=/data/coco
    panformer train r50 --set data.root=/data/coco --set train.max_steps=100

    The run goes to runs/<recipe>/<time>/: the resolved recipe, metrics.jsonl, environment.json and the checkpoints
    `last` and `best` (by PQ). Ctrl-C saves first; --resume goes on from there.
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.engine.runs import find_checkpoint
    from panformer_cli.engine.train import TrainOptions
    from panformer_cli.engine.train import train as run_training
    from panformer_cli.recipe_io import load_recipe

    reporter = RichReporter()
    weights = find_checkpoint(init_from, reporter) if init_from is not None else None
    options = TrainOptions(out, resume, weights, compute.processes())
    run = run_training(load_recipe(recipe, overrides), options, reporter)
    click.echo(f"Best checkpoint: {run.checkpoint}")
