"""Options and output shared by the `prepare-data` subcommands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from panformer_cli.cli.options import hint, json_option
from panformer_cli.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from panformer_cli.prepare.occurrences import Occurrences
    from panformer_cli.prepare.source import Source
    from panformer_cli.prepare.summary import SplitSummary
    from panformer_cli.reporting import Reporter

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
skip_bad_annotations_option = click.option(
    "--skip-bad-annotations",
    is_flag=True,
    help="Leave out single annotations that cannot be used, and list them. The rest of the image is kept.",
)
drop_small_option = click.option(
    "--drop-small",
    type=click.IntRange(min=1),
    metavar="AREA",
    help="Leave out segments of fewer than AREA pixels, and list them. Their pixels become void.",
)
encoding_option = click.option(
    "--encoding",
    callback=lambda context, parameter, name: _checked_encoding(name),
    metavar="NAME",
    help="Encoding of text files that are not UTF-8, such as gbk, shift_jis or cp1252.",
)
overlap_option = click.option(
    "--overlap",
    type=click.Choice(["last", "first", "smallest", "error"]),
    default="last",
    show_default=True,
    help="Which mask keeps pixels covered by several.",
)


def _checked_encoding(name: str | None) -> str | None:
    from panformer_cli.storage.text_files import is_text_encoding

    if name is not None and not is_text_encoding(name):
        raise click.BadParameter(f"{name!r} is not a text encoding; expected a name such as gbk, shift_jis or cp1252")
    return name


def conversion_options(command: Command) -> Command:
    """Add `--root`, `--out`, `--split`, `--workers`, `--skip-bad-images` and `--json`."""
    return root_option(output_options(json_option(command)))


def output_options(command: Command) -> Command:
    """Add the `conversion_options` except `--root` and `--json`, which `coco-instances` uses for its input."""
    for option in (
        skip_bad_images_option,
        workers_option,
        splits_option,
        click.option(
            "--out", "-o", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Output folder."
        ),
    ):
        command = option(command)
    return command


def annotation_options(command: Command) -> Command:
    """Add `--skip-bad-annotations` and `--drop-small`, for sources in which each object is annotated separately."""
    return skip_bad_annotations_option(drop_small_option(command))


@dataclass(frozen=True)
class Conversion:
    """The values of `conversion_options` and `annotation_options`, except `--root`, which the source takes."""

    out: Path
    splits: tuple[str, ...]
    workers: int | None
    skip_bad_images: bool
    as_json: bool = False
    skip_bad_annotations: bool = False
    drop_small: int | None = None

    def of_all_splits(self) -> Conversion:
        """Return a copy for all splits of the source, for commands whose `--split` selects from the input."""
        return replace(self, splits=())


def run_conversion(source: Source, conversion: Conversion) -> None:
    """Convert `source`, print its summary, and suggest the next command or print all as JSON."""
    from panformer_cli.console import RichReporter
    from panformer_cli.data.parallel import available_cores
    from panformer_cli.prepare.convert import ConvertOptions, convert

    options = ConvertOptions(
        conversion.workers or available_cores(),
        conversion.skip_bad_images,
        conversion.skip_bad_annotations,
        conversion.drop_small or 0,
    )
    summaries = convert(source, conversion.out, conversion.splits, options, RichReporter())
    if conversion.as_json:
        print_json({"out": str(conversion.out), "splits": splits_json(summaries)})
        return
    print_summaries(f"{source.name} in {conversion.out}", summaries)
    hint(f"Next: panformer prepare-data verify {shlex.quote(str(conversion.out))}")
    click.echo(f"      {_command_after_verify(conversion.out, _train_and_val(summaries))}")


def print_json(content: Mapping[str, Any]) -> None:
    """Print the results of a command."""
    click.echo(json.dumps(content, indent=2))


def splits_json(summaries: Sequence[SplitSummary]) -> dict[str, Any]:
    """Return the summary of each split, as in `summary.json`."""
    return {summary.split: summary.to_json() for summary in summaries}


def _command_after_verify(out: Path, splits: Sequence[tuple[str, str]]) -> str:
    """Return the training command if there are splits to train on and to evaluate, else the one that splits."""
    if len(splits) < 2:
        divided = out.with_name(f"{out.name}_divided")
        return shlex.join(["panformer", "prepare-data", "split", "--root", str(out), "--out", str(divided)])
    settings = [f"data.root={out}", *(f"data.{key}_split={name}" for key, name in splits)]
    return shlex.join(["panformer", "train", "r50", *(word for setting in settings for word in ("--set", setting))])


def _train_and_val(summaries: Sequence[SplitSummary]) -> list[tuple[str, str]]:
    """Return `train` and `val`, each with the first split whose name starts with it."""
    names = [summary.split for summary in summaries]
    found = ((key, next((name for name in names if name.startswith(key)), None)) for key in ("train", "val"))
    return [(key, name) for key, name in found if name is not None]


def print_summaries(title: str, summaries: Sequence[SplitSummary]) -> None:
    """Print a table with one row per split, the first skipped images, and annotations left out or changed."""
    from panformer_cli.console import print_table

    columns = ("split", "images", "segments", "things", "stuff", "crowd", "void %", "left out")
    rows = [
        (s.split, s.images, s.segments, s.things, s.stuff, s.crowd, 100 * s.void_share, len(s.left_out))
        for s in summaries
    ]
    print_table(title, columns, rows)
    for summary in summaries:
        print_left_out(summary.split, summary.left_out)
        if len(summary.left_out) > LEFT_OUT_NAMED:
            click.echo("See summary.json for the full list.")
    _print_annotations("left out", {summary.split: summary.annotations_left_out for summary in summaries})
    _print_annotations("changed", {summary.split: summary.annotations_changed for summary in summaries})


def _print_annotations(what: str, by_split: Mapping[str, Mapping[str, Occurrences]]) -> None:
    from panformer_cli.console import print_table

    groups = [(split, reason, group) for split, by_reason in by_split.items() for reason, group in by_reason.items()]
    if groups:
        total = sum(group.count for _, _, group in groups)
        rows = [(split, group.count, reason) for split, reason, group in groups]
        print_table(f"{counted(total, 'annotation')} {what}", ("split", "annotations", "reason"), rows)
        click.echo(f"First: {groups[0][2].first[0]}")
        click.echo("See summary.json for the full list.")


def print_left_out(split: str, problems: Sequence[str]) -> None:
    """Print why the first skipped images of a split were skipped."""
    from panformer_cli.wording import first_items

    for sentence in first_items(problems, LEFT_OUT_NAMED):
        click.echo(f"left out of {split}: {sentence}")


def warn_of_skipped(source: Source, reporter: Reporter) -> None:
    """Warn about images of prepared data sets that are listed but not annotated."""
    from panformer_cli.prepare.sets.existing import ExistingSets

    if isinstance(source, ExistingSets) and source.skipped:
        what = f"skipped {counted(len(source.skipped), 'image')}, listed but not annotated"
        reporter.warn(f"{what}; first: {source.skipped[0]}")
