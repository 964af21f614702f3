"""What the subcommands of `prepare-data` that convert a source have in common."""

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
    "--root", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder that is read."
)
splits_option = click.option(
    "--split", "splits", multiple=True, metavar="S", help="Only this split; may be repeated [all]."
)
workers_option = click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes [one a core].")
skip_bad_images_option = click.option(
    "--skip-bad-images", is_flag=True, help="Leave out images that cannot be used, and list them."
)
overlap_option = click.option(
    "--overlap",
    type=click.Choice(["last", "first", "smallest", "error"]),
    default="last",
    show_default=True,
    help="Who keeps pixels that several masks claim.",
)


def conversion_options(command: Command) -> Command:
    """`--root`, `--out`, `--split`, `--workers` and `--skip-bad-images`: the arguments of `run_conversion`."""
    for option in (
        skip_bad_images_option,
        workers_option,
        splits_option,
        click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder to write."),
        root_option,
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class Conversion:
    """What `conversion_options` gave, but for `--root`, which the source takes."""

    out: Path
    splits: tuple[str, ...]
    workers: int | None
    skip_bad_images: bool

    def of_all_splits(self) -> Conversion:
        """The same for all splits of the source, where `--split` chose from another set."""
        return replace(self, splits=())


def run_conversion(source: Source, conversion: Conversion) -> None:
    """Convert `source` and show what it holds."""
    from panformer_cli.console import RichReporter
    from panformer_cli.data.parallel import available_cores
    from panformer_cli.prepare.convert import ConvertOptions, convert

    options = ConvertOptions(conversion.workers or available_cores(), conversion.skip_bad_images)
    summaries = convert(source, conversion.out, conversion.splits, options, RichReporter())
    print_summaries(f"{source.name} in {conversion.out}", summaries)
    click.echo(f"Next: panformer prepare-data verify {conversion.out}")
    click.echo(f"      {_after_the_check(conversion.out, _train_and_val(summaries))}")


def _after_the_check(out: Path, splits: Sequence[tuple[str, str]]) -> str:
    """Training where there are images to train on and others to measure with; else dividing."""
    if len(splits) < 2:
        return f"panformer prepare-data split --root {out} --out {out.with_name(f'{out.name}_divided')}"
    named = " ".join(f"--set data.{key}_split={name}" for key, name in splits)
    return f"panformer train r50 --set data.root={out} {named}"


def _train_and_val(summaries: Sequence[SplitSummary]) -> list[tuple[str, str]]:
    """Splits whose names say what they are for."""
    names = [summary.split for summary in summaries]
    found = ((key, next((name for name in names if name.startswith(key)), None)) for key in ("train", "val"))
    return [(key, name) for key, name in found if name is not None]


def print_summaries(title: str, summaries: Sequence[SplitSummary]) -> None:
    """A table with a row for each split."""
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
            click.echo("summary.json lists all of them")
