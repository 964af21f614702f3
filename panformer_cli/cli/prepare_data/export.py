"""`panformer prepare-data export`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from panformer_cli.cli.options import json_option
from panformer_cli.cli.prepare_data.options import (
    print_json,
    print_left_out,
    skip_bad_images_option,
    splits_option,
    warn_of_skipped,
    workers_option,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from panformer_cli.prepare.export.export import ExportedSplit
    from panformer_cli.prepare.export.formats import FormatName
    from panformer_cli.prepare.export.review import ListedSuspect
    from panformer_cli.prepare.source import Source

FOLDER = click.Path(path_type=Path)
FORMATS: tuple[FormatName, ...] = ("coco-instances", "cvat", "labelme", "yolo", "label-studio")

Command = TypeVar("Command", bound=Callable[..., Any])


def _input_options(command: Command) -> Command:
    """Add the options that select what is exported."""
    for option in (
        click.option(
            "--review-limit", type=click.IntRange(min=1), metavar="N", help="Review only the first N. [default: all]"
        ),
        click.option(
            "--review",
            type=FOLDER,
            metavar="JSON",
            help="Export only the images with probable label errors in this label_errors.json of `evaluate`.",
        ),
        click.option("--min-score", type=float, metavar="X", help="Omit predicted segments with a lower score."),
        click.option(
            "--class", "classes", multiple=True, metavar="NAME", help="Export only this class. Can be repeated."
        ),
        splits_option,
        click.option("--images", type=FOLDER, metavar="DIR", help="Folder of the predicted images."),
        click.option(
            "--predictions", type=FOLDER, metavar="PRED.json", help="Panoptic JSON of `predict` or `evaluate`."
        ),
        click.option("--root", type=FOLDER, metavar="DIR", help="Data set whose annotation is exported."),
    ):
        command = option(command)
    return command


def _format_options(command: Command) -> Command:
    """Add the options of `open_format`."""
    for option in (
        click.option(
            "--image-url", metavar="URL", help="Label Studio only: what precedes SPLIT/NAME in image addresses."
        ),
        click.option(
            "--simplify",
            type=click.FloatRange(min=0),
            default=0,
            metavar="PIXELS",
            help="Move outlines by up to PIXELS to omit points. [default: 0, which is exact]",
        ),
        click.option(
            "--shapes",
            type=click.Choice(["masks", "polygons"]),
            help="Form of the segments. [default: polygons for labelme and yolo, else masks]",
        ),
        click.option("--to", "name", type=click.Choice(FORMATS), required=True, help="Label format."),
    ):
        command = option(command)
    return command


@click.command()
@_format_options
@_input_options
@click.option("--out", "-o", type=FOLDER, required=True, metavar="DIR", help="Output folder; must be new or empty.")
@click.option("--copy-images", is_flag=True, help="Copy images instead of creating hard links.")
@workers_option
@skip_bad_images_option
@json_option
def export(
    out: Path, copy_images: bool, workers: int | None, skip_bad_images: bool, as_json: bool, **options: Any
) -> None:
    """Write labels for an annotation tool.

    Exports the annotation of a data set, or predictions to correct by hand. docs/data.md describes what each format
    can express.

    \b
    panformer prepare-data export --to cvat --root data/mine --split val --out for_cvat
    panformer prepare-data export --to labelme --predictions pred/panoptic.json --images photos --out to_correct
    panformer prepare-data export --to labelme --root data/mine --split val --review label_errors.json --out to_review
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.data.parallel import available_cores
    from panformer_cli.prepare.export.export import ExportOptions
    from panformer_cli.prepare.export.export import export as write
    from panformer_cli.prepare.export.formats import open_format
    from panformer_cli.prepare.export.review import summary

    format_options = {key: options.pop(key) for key in ("name", "shapes", "image_url")}
    tolerance = options.pop("simplify")
    reporter, (source, suspects) = RichReporter(), _opened(**options)
    warn_of_skipped(source, reporter)
    label_format = open_format(categories=source.categories, tolerance=tolerance, **format_options)
    export_options = ExportOptions(
        workers or available_cores(), skip_bad_images, copies_images=copy_images, suspects=suspects
    )
    exported = write(source, label_format, out, export_options, reporter)
    if as_json:
        print_json({"out": str(out), "format": label_format.name, "splits": dict(map(_exported_json, exported))})
        return
    _print_exported(f"{label_format.name} in {out}", exported, bool(tolerance))
    if suspects:
        click.echo(summary([suspect for split in exported for suspect in split.suspects], out))
    for line in label_format.next_steps(out, [split.name for split in exported]):
        click.echo(line)


def _opened(
    root: Path | None,
    predictions: Path | None,
    images: Path | None,
    splits: tuple[str, ...],
    classes: tuple[str, ...],
    min_score: float | None,
    review: Path | None,
    review_limit: int | None,
) -> tuple[Source, tuple[ListedSuspect, ...]]:
    """Return the source that the options select, and the probable label errors to review.

    Raises:
        UsageError: The options exclude each other.
    """
    from panformer_cli.prepare.export.inputs import open_predictions, open_truth
    from panformer_cli.prepare.export.review import only_suspected, read_suspects

    if review_limit is not None and review is None:
        raise click.UsageError("--review-limit limits --review: add --review label_errors.json.")
    if (root is None) == (predictions is None):
        raise click.UsageError("pass either --root or --predictions.")
    if root is not None:
        if images is not None or min_score is not None:
            raise click.UsageError(f"{'--images' if images else '--min-score'} needs --predictions; leave it out.")
        truth = open_truth(root, splits, classes)
        if review is None:
            return truth, ()
        suspects = read_suspects(review, review_limit)
        return only_suspected(truth, suspects, review), tuple(suspects)
    if review is not None:
        raise click.UsageError("--review needs --root, the data set that was evaluated; leave out --predictions.")
    if images is None:
        raise click.UsageError("--predictions needs --images DIR, the folder of the predicted images.")
    if len(splits) > 1:
        raise click.UsageError("--split was passed more than once; expected one name for the split of the predictions.")
    assert predictions is not None
    return open_predictions(predictions, images, classes, min_score, *splits), ()


def _exported_json(split: ExportedSplit) -> tuple[str, dict[str, Any]]:
    """Return the name of a split, and what was written of it."""
    report = split.report
    return split.name, {
        "images": split.images,
        "segments": report.segments,
        "masks": report.shapes["mask"],
        "polygons": report.shapes["polygon"],
        "pixels": report.pixels,
        "changed_pixels": report.changed,
        "not_expressed": report.sentences(),
        "left_out": split.left_out,
    }


def _print_exported(title: str, exported: Sequence[ExportedSplit], is_simplified: bool) -> None:
    """Print a table with one row per split, and what the format could not express."""
    from panformer_cli.console import print_table
    from panformer_cli.prepare.export.export import total

    columns = ("split", "images", "segments", "masks", "polygons", "left out")
    rows = [
        (
            split.name,
            split.images,
            report.segments,
            report.shapes["mask"],
            report.shapes["polygon"],
            len(split.left_out),
        )
        for split in exported
        for report in [split.report]
    ]
    print_table(title, columns, rows)
    for split in exported:
        print_left_out(split.name, split.left_out)
    report = total(exported)
    for sentence in report.sentences():
        click.echo(sentence)
    if is_simplified:
        share = 100 * report.changed / max(report.pixels, 1)
        click.echo(f"Simplified outlines change {report.changed} of {report.pixels} pixels ({share:.2f} %).")
