"""Options of `train` that start it on several machines, restart it, or write a job for SLURM."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from panformer_cli.cli.options import Launching

_SET_BY_JOB = ("gpus", "cpu_processes", "device", "nodes", "node_rank", "rendezvous", "resume")


def launch_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of several machines, restarts and SLURM; above `compute_options`."""

    @click.option("--nodes", type=click.IntRange(min=1), metavar="N", help="Use N machines. [default: 1]")
    @click.option("--node-rank", type=click.IntRange(min=0), metavar="R", help="Number of this machine, from 0.")
    @click.option("--rendezvous", metavar="HOST:PORT", help="Machine 0 and a free port on it, where all machines meet.")
    @click.option(
        "--max-restarts",
        type=click.IntRange(min=0),
        metavar="K",
        help="Start all processes again up to K times if one fails; needs --resume auto. [default: 0]",
    )
    @click.option(
        "--slurm",
        metavar="KEY=VALUE,...",
        help='Write a batch file for SLURM instead, such as "nodes=2,gpus=8,time=24:00:00".',
    )
    @click.option("--submit", is_flag=True, help="Submit the batch file with sbatch.")
    @functools.wraps(function)
    def with_launching(
        nodes: int | None,
        node_rank: int | None,
        rendezvous: str | None,
        max_restarts: int | None,
        slurm: str | None,
        submit: bool,
        **others: Any,
    ) -> Any:
        if slurm is not None:
            given = {"nodes": nodes, "node_rank": node_rank, "rendezvous": rendezvous, **others}
            return _write_job(slurm, submit, given)
        if submit:
            raise click.UsageError("--submit needs --slurm: use both or neither.")
        if max_restarts and others["resume"] is False:
            raise click.UsageError("--max-restarts needs --resume auto, so that restarted processes resume the run.")
        return function(launching=Launching(nodes or 1, node_rank, rendezvous, max_restarts or 0), **others)

    return with_launching


def _write_job(text: str, submit: bool, given: dict[str, Any]) -> int:
    """Write the batch file that runs this command in a job, and submit it if asked to."""
    from panformer_cli.engine.distributed.slurm import Job
    from panformer_cli.engine.distributed.slurm import submit as submit_job
    from panformer_cli.recipe_io import load_recipe

    for name in _SET_BY_JOB:
        if given.get(name) is not None and given[name] is not False:
            raise click.UsageError(f"--{name.replace('_', '-')} cannot be used with --slurm, whose job sets it.")
    if given["recipe"] is None:
        raise click.UsageError("Missing argument 'RECIPE'.")
    recipe = load_recipe(given["recipe"], given["overrides"])
    words = _without_job(click.get_current_context().find_root().obj)
    out: Path | None = given["out"]
    path = Job.parse(recipe.name, text).write(words, None if out is None else str(out))
    if submit:
        click.echo(submit_job(path))
    else:
        click.echo(f"Wrote {path}; submit it with: sbatch {path}")
    return 0


def _without_job(words: Sequence[str]) -> list[str]:
    """Return a command line without `--slurm` and `--submit`."""
    kept, iterator = [], iter(words)
    for word in iterator:
        if word == "--slurm":
            next(iterator)
        elif word != "--submit" and not word.startswith("--slurm="):
            kept.append(word)
    return kept
