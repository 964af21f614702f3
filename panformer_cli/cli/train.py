"""`panformer train`."""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.duration import Duration
from panformer_cli.cli.launching import launch_options
from panformer_cli.cli.options import Compute, compute_options, json_option
from panformer_cli.cli.replay import replay_option
from panformer_cli.errors import INTERRUPTED, PanformerError
from panformer_cli.wording import counted

if TYPE_CHECKING:
    from panformer_cli.engine.training.dry_run import DryRun
    from panformer_cli.engine.training.train import RunResult

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
"""Modules of `engine.trackers`, with the names of their packages and of panformer's extras."""


class MemorySize(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in newer versions only
    """A number with a unit of bytes, such as 11GB or 10.5GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number of bytes."""
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*(MB|GB|MiB|GiB)", str(value), re.IGNORECASE)
        size = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
        if not size:
            self.fail(f"{value!r} is not a size; expected a number above 0 with MB, GB, MiB or GiB, such as 11GB")
        return size


_UNITS = {"mb": 1e6, "gb": 1e9, "mib": 2.0**20, "gib": 2.0**30}


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
    from panformer_cli.recipe_checks import check_run, check_trainable
    from panformer_cli.recipe_io import load_recipe, override_recipe

    if recipe is not None:
        named = load_recipe(recipe, overrides)
        check_trainable(named)
        if resume is False:
            check_run(named)
        return
    run = Path(resume) if isinstance(resume, str) else out
    assert run is not None, "a run to resume is named"
    try:
        own = load_recipe(str(run / "recipe.yaml"))
    except PanformerError:
        return  # the checkpoint also has the recipe
    check_trainable(override_recipe(own, overrides, f"the recipe of {run}"))


@click.command()
@click.argument("recipe", metavar="[RECIPE]", required=False)
@replay_option
@launch_options
@_names_a_run
@functools.partial(compute_options, first=check_recipe)
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), metavar="DIR", help="Run folder. [default: runs/<recipe>/<time>]"
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
    "--dry-run",
    is_flag=True,
    help="Try the recipe on its data without a run folder: one step, one evaluated image, memory and time per epoch.",
)
@click.option(
    "--fit-memory",
    type=MemorySize(),
    metavar="SIZE",
    help="Choose images per forward pass, precision and activation checkpointing so that each process uses at most "
    "this much memory, such as 11GB. The images per step stay the same.",
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
@json_option
def train(
    recipe: str | None,
    compute: Compute,
    out: Path | None,
    resume: bool | str,
    init_from: Path | None,
    trackers: tuple[str, ...],
    profile: bool,
    dry_run: bool,
    fit_memory: float | None,
    time_limit: int | None,
    overrides: tuple[str, ...],
    as_json: bool,
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
    if dry_run:
        return _try(recipe, overrides, compute, resume, as_json)
    from panformer_cli.engine.trackers.names import check_installed

    check_installed(trackers)
    from panformer_cli.engine.training.start import StartRequest, plan_start
    from panformer_cli.engine.training.train import train as run_training

    request = StartRequest(recipe, overrides, out, resume, init_from, fit_memory is not None)
    with compute.joined() as (process, reporter):
        start = process.on_first(lambda: plan_start(request, reporter))
        options = replace(
            start.options, trackers=trackers, profile=profile, time_limit=time_limit, fit_memory=fit_memory
        )
        result = run_training(start.recipe, options, process, reporter)
        if as_json:
            click.echo(json.dumps(_as_json(result), indent=2))
        elif result.ended:
            click.echo(f"Best checkpoint: {result.run.checkpoint}")
        if not result.ended:
            reporter.message(_stopped(result, compute))
            return INTERRUPTED
        reporter.message(f"Next: {shlex.join(['panformer', 'evaluate', str(result.run.path)])}")
        return 0


def _most_used_first(parameter: click.Parameter) -> int:
    """Return the place of an option in the help; the others follow in their order."""
    name = str(parameter.name)
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)


_FIRST = ("recipe", "overrides", "out", "gpus", "device", "resume", "init_from", "trackers", "dry_run", "time_limit",
          "fit_memory", "profile", "replay")  # fmt: skip
train.params.sort(key=_most_used_first)


def _stopped(result: RunResult, compute: Compute) -> str:
    """Return the message for an interrupted run: what was saved and how to resume."""
    run = result.run
    if result.saved_step is None:
        return "Stopped before a checkpoint was saved; rerun the same command to start over"
    command = compute.command("train", "--resume", str(run.path))
    return f"Stopped; step {result.saved_step} of {result.total_steps} is saved; resume with: {command}"


def _as_json(result: RunResult) -> dict[str, Any]:
    """Return the outcome of a run; metrics.jsonl in its folder has the losses and metrics."""
    checkpoint = result.run.checkpoint
    return {
        "run": str(result.run.path),
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "ended": result.ended,
        "saved_step": result.saved_step,
        "total_steps": result.total_steps,
    }


def _try(recipe: str | None, overrides: tuple[str, ...], compute: Compute, resume: bool | str, as_json: bool) -> int:
    """Make a dry run and print what it found."""
    if recipe is None or resume:
        raise click.UsageError("--dry-run needs a recipe, and cannot be used with --resume.")
    from panformer_cli.engine.training.dry_run import dry_run
    from panformer_cli.recipe_io import load_recipe

    with compute.joined() as (process, reporter):
        found = dry_run(load_recipe(recipe, overrides), process, reporter)
        click.echo(json.dumps(asdict(found), indent=2) if as_json else _described(found))
    return 0


def _described(found: DryRun) -> str:
    shapes = ", ".join(" x ".join(map(str, shape)) for shape in dict.fromkeys(found.inputs))
    peak = "not reported by the system" if found.peak_mib is None else f"{found.peak_mib:.0f} MiB {found.memory_kind}"
    return "\n".join(
        [
            f"Data:        {counted(found.training_images, 'training image')}, "
            f"{counted(found.validation_images, 'validation image')}",
            f"Run:         {counted(found.total_steps, 'step')}, {counted(found.steps_per_epoch, 'step')} per epoch",
            f"Model:       {found.parameters / 1e6:.1f} M parameters, {found.trained / 1e6:.1f} M trained, "
            f"on {found.device}",
            f"Forward:     {found.forward_flops / 1e9:.1f} GFLOPs for an image of "
            f"{found.forward_input[2]} x {found.forward_input[3]} pixels",
            f"Step:        {found.step_seconds:.2f} s, loss {found.loss:.2f}; {len(found.inputs)} x forward and "
            f"backward with {shapes}, {counted(found.segments, 'segment')}",
            f"Memory:      {peak}, at the peak of the step",
            f"Evaluation:  {found.evaluation_seconds:.2f} s per image",
            f"Epoch:       about {found.epoch_seconds / 60:.1f} minutes, if loading images is not slower",
            "Nothing was written; the step is not kept.",
        ]
    )
