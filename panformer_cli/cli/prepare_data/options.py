"""Options and output shared by the `prepare-data` subcommands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from panformer_cli.prepare.source import Source
    from panformer_cli.prepare.summary import SplitSummary

LEFT_OUT_NAMED = 3

Command = TypeVar("Command", bound=Callable[..., Any])

root_option = click.option(
    "--root", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Input folder."
)
splits_option = click.option(
    "--split", "splits", multiple=True, metavar="S", help="Process only this split. Can be repeated. [default: all]"
)
workers_option = click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Worker processes. [default: one per core]"
)
skip_bad_images_option = click.option(
    "--skip-bad-images", is_flag=True, help="Skip images that cannot be used, and list them."
)
stuff_option = click.option(
    "--stuff", multiple=True, metavar="NAME", help="Treat this class as stuff. Can be repeated."
)
overlap_option = click.option(
    "--overlap",
    type=click.Choice(["last", "first", "smallest", "error"]),
    default="last",
    show_default=True,
    help="Which mask keeps pixels covered by several.",
)


def conversion_options(command: Command) -> Command:
    """Add `--root`, `--out`, `--split`, `--workers` and `--skip-bad-images`."""
    for option in (
        skip_bad_images_option,
        workers_option,
        splits_option,
        click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Output folder."),
        root_option,
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class Conversion:
    """The values of `conversion_options`, except `--root`, which the source takes."""

    out: Path
    splits: tuple[str, ...]
    workers: int | None
    skip_bad_images: bool

    def of_all_splits(self) -> Conversion:
        """Return a copy for all splits of the source, for commands whose `--split` selects from the input."""
        return replace(self, splits=())


def run_conversion(source: Source, conversion: Conversion) -> None:
    """Convert `source`, print its summary and suggest the next command."""
    from panformer_cli.console import RichReporter
    from panformer_cli.data.parallel import available_cores
    from panformer_cli.prepare.convert import ConvertOptions, convert

    options = ConvertOptions(conversion.workers or available_cores(), conversion.skip_bad_images)
    summaries = convert(source, conversion.out, conversion.splits, options, RichReporter())
    print_summaries(f"{source.name} in {conversion.out}", summaries)
    click.echo(f"Next: panformer prepare-data verify {conversion.out}")
    click.echo(f"      {_command_after_verify(conversion.out, _train_and_val(summaries))}")


def _command_after_verify(out: Path, splits: Sequence[tuple[str, str]]) -> str:
    """Return the training command if there are splits to train on and to evaluate, else the one that splits."""
    if len(splits) < 2:
        return f"panformer prepare-data split --root {out} --out {out.with_name(f'{out.name}_divided')}"
    named = " ".join(f"--set data.{key}_split={name}" for key, name in splits)
    return f"panformer train r50 --set data.root={out} {named}"


def _train_and_val(summaries: Sequence[SplitSummary]) -> list[tuple[str, str]]:
    """Return `train` and `val`, each with the first split whose name starts with it."""
    names = [summary.split for summary in summaries]
    found = ((key, next((name for name in names if name.startswith(key)), None)) for key in ("train", "val"))
    return [(key, name) for key, name in found if name is not None]


def print_summaries(title: str, summaries: Sequence[SplitSummary]) -> None:
    """Print a table with one row per split, and the first skipped images."""
    from panformer_cli.console import print_table
    from panformer_cli.wording import first_items

    columns = ("split", "images", "segments", "things", "stuff", "crowd", "void %", "left out")
    rows = [
        (s.split, s.images, s.segments, s.things, s.stuff, s.crowd, 100 * s.void_share, len(s.left_out))
        for s in summaries
    ]
    print_table(title, columns, rows)
    for summary in summaries:
        for sentence in first_items(summary.left_out, LEFT_OUT_NAMED):
            click.echo(f"left out of {summary.split}: {sentence}")
        if len(summary.left_out) > LEFT_OUT_NAMED:
            click.echo("See summary.json for the full list.")
