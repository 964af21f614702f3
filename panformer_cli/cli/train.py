"""`panformer train`."""

from __future__ import annotations

import contextlib
import functools
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.duration import Duration
from panformer_cli.cli.launching import launch_options
from panformer_cli.cli.options import Compute, compute_options
from panformer_cli.errors import INTERRUPTED, PanformerError

if TYPE_CHECKING:
    from panformer_cli.engine.training.train import RunResult

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
"""Modules of `engine.trackers`, with the names of their packages and of panformer's extras."""


def _names_a_run(function: Callable[..., int]) -> Callable[..., int]:
    """Refuse a command line with neither a recipe nor a run to resume, before any process is started."""

    @functools.wraps(function)
    def checked(recipe: str | None, out: Path | None, resume: bool | str, **others: Any) -> int:
        if recipe is None and (resume in (False, "auto") or (resume is True and out is None)):
            raise click.UsageError("Missing argument 'RECIPE'; it can be omitted only with --resume RUN.")
        return function(recipe=recipe, out=out, resume=resume, **others)

    return checked


def check_recipe(
    recipe: str | None, overrides: tuple[str, ...], out: Path | None, resume: bool | str, **_: Any
) -> None:
    """Raise RecipeError if the recipe or the overrides of a new or a resumed run cannot be used."""
    from panformer_cli.recipe_checks import check_run
    from panformer_cli.recipe_io import load_recipe, override_recipe

    if recipe is not None:
        named = load_recipe(recipe, overrides)
        if resume is False:
            check_run(named)
        return
    run = Path(resume) if isinstance(resume, str) else out
    with contextlib.suppress(PanformerError):  # the checkpoint also has the recipe
        own = None if run is None else load_recipe(str(run / "recipe.yaml"))
    if own is not None:
        override_recipe(own, overrides, f"the recipe of {run}")


@click.command()
@click.argument("recipe", metavar="[RECIPE]", required=False)
@launch_options
@_names_a_run
@functools.partial(compute_options, first=check_recipe)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Run folder. [default: runs/<recipe>/<time>]"
)
@click.option(
    "--resume",
    is_flag=False,
    flag_value=True,
    default=False,
    type=click.UNPROCESSED,
    metavar="[RUN|auto]",
    help="Resume the run in the folder RUN, in --out, or else the newest run of this recipe. With auto, resume the run "
    "that the same command started before, or start a new one if there is none.",
)
@click.option(
    "--init-from",
    type=click.Path(path_type=Path),
    metavar="CHECKPOINT",
    help="Initialize from a checkpoint: a file, a run folder or the name of published weights.",
)
@click.option(
    "--log",
    "trackers",
    type=click.Choice(TRACKERS),
    multiple=True,
    help="Also send the log and sample predictions to this experiment tracker; can be repeated.",
)
@click.option(
    "--profile", is_flag=True, help="Measure some steps, and report what limits the speed, with a trace of one step."
)
@click.option(
    "--time-limit",
    type=Duration(),
    metavar="TIME",
    help="Save and stop before this time is over, such as 3h50m, counted from the start of this command; it ends like "
    "Ctrl-C, and --resume continues.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting, such as train.lr=1e-4; can be repeated.",
)
def train(
    recipe: str | None,
    compute: Compute,
    out: Path | None,
    resume: bool | str,
    init_from: Path | None,
    trackers: tuple[str, ...],
    profile: bool,
    time_limit: int | None,
    overrides: tuple[str, ...],
) -> int:
    """Train a model from a recipe.

    RECIPE is a YAML file or the name of a built-in recipe, such as tiny or r50.

    \b
    panformer train tiny --set data.root=data/scenes
    panformer train r50 --gpus 8 --set data.root=/data/coco
    panformer train r50 --set data.root=/data/coco --resume auto
    panformer train --resume runs/r50/2026-11-29_12-00-00

    The run folder gets the resolved recipe, metrics.jsonl, environment.json and the checkpoints `last` and `best` (by
    PQ). Ctrl-C saves a checkpoint before it stops; --resume continues from it. A resumed run keeps its own recipe;
    --set changes single settings of it.
    """
    from panformer_cli.engine.trackers.names import check_installed

    check_installed(trackers)
    from panformer_cli.engine.training.start import StartRequest, plan_start
    from panformer_cli.engine.training.train import train as run_training

    request = StartRequest(recipe, overrides, out, resume, init_from)
    with compute.joined() as (process, reporter):
        start = process.on_first(lambda: plan_start(request, reporter))
        options = replace(start.options, trackers=trackers, profile=profile, time_limit=time_limit)
        result = run_training(start.recipe, options, process, reporter)
        if not result.ended:
            reporter.message(_stopped(result, compute))
            return INTERRUPTED
        click.echo(f"Best checkpoint: {result.run.checkpoint}")
        reporter.message(f"Next: {shlex.join(['panformer', 'evaluate', str(result.run.path)])}")
        return 0


def _stopped(result: RunResult, compute: Compute) -> str:
    """Return the message for an interrupted run: what was saved and how to resume."""
    run = result.run
    if result.saved_step is None:
        return "Stopped before a checkpoint was saved; rerun the same command to start over"
    command = compute.command("train", "--resume", str(run.path))
    return f"Stopped; step {result.saved_step} of {result.total_steps} is saved; resume with: {command}"
