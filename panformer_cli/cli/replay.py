"""The option `--replay` of `train`: compute a skipped step again and show where it failed."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from panformer_cli.cli.options import Compute

if TYPE_CHECKING:
    from panformer_cli.engine.training.replay.replay import Replay, ReplayedLoss

_ALLOWED = {"replay", "device", "sampling", "quiet", "verbose", "log_file"}


def replay_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--replay`, with which the command does nothing else; above all other options."""

    @click.option(
        "--replay",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Compute the skipped step in bad-step-<n>.safetensors of a run again, and show which loss, module and "
        "gradient is not finite. Nothing is written.",
    )
    @functools.wraps(function)
    def with_replay(replay: Path | None, **others: Any) -> Any:
        if replay is None:
            return function(**others)
        context = click.get_current_context()
        for parameter in context.command.params:
            given = context.get_parameter_source(str(parameter.name)) == ParameterSource.COMMANDLINE
            if given and parameter.name not in _ALLOWED:
                name = max(parameter.opts, key=len) if isinstance(parameter, click.Option) else "RECIPE"
                raise click.UsageError(
                    f"{name} cannot be used with --replay, which computes a step of an existing run: leave it out."
                )
        return _replay(replay, Compute(device=others["device"], sampling=others["sampling"]))

    return with_replay


def _replay(path: Path, compute: Compute) -> int:
    """Compute the step again and print what was found."""
    from panformer_cli.console import print_table
    from panformer_cli.engine.training.replay.replay import replay
    from panformer_cli.engine.training.replay.verdict import findings, next_step

    with compute.joined() as (process, reporter):
        found = replay(path, process, reporter)
        step = found.step
        rank = f" of process {step.rank}" if step.world_size > 1 else ""
        columns = ("loss", *(["forward pass"] if _has_several(found) else []), "in training", "here", "finite")
        click.echo(f"Step {step.number}{rank} was skipped because its {step.reason} is not finite.")
        print_table("Losses", columns, [_row(loss, _has_several(found)) for loss in found.losses])
        for line in findings(found):
            click.echo(line)
        click.echo(f"Next: {next_step(found)}")
    return 0


def _has_several(found: Replay) -> bool:
    return len(found.step.inputs.batches) > 1


def _row(loss: ReplayedLoss, with_batch: bool) -> tuple[str | int | None, ...]:
    before = None if loss.before is None else f"{loss.before:.6g}"
    batch = (loss.batch + 1,) if with_batch else ()
    return (loss.name, *batch, before, f"{loss.now:.6g}", "yes" if math.isfinite(loss.now) else "no")
