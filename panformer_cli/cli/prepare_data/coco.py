"""`panformer prepare-data coco` and `custom`: data sets already in COCO panoptic format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from panformer_cli.cli.options import hint, json_option
from panformer_cli.cli.prepare_data.options import (
    print_json,
    print_summaries,
    root_option,
    skip_bad_images_option,
    splits_json,
    splits_option,
    workers_option,
)
from panformer_cli.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from panformer_cli.prepare.coco.in_place import Prepared
    from panformer_cli.prepare.coco.unlabeled_images import UnlabeledImages

Command = TypeVar("Command", bound=Callable[..., Any])


def in_place_options(command: Command) -> Command:
    """Add the options of a command that prepares a data set in place."""
    out = click.option(
        "--out", "-o", type=click.Path(path_type=Path), metavar="DIR", help="Output folder. [default: the data set]"
    )
    for option in (json_option, skip_bad_images_option, workers_option, out, splits_option, root_option):
        command = option(command)
    return command


@click.command()
@in_place_options
@click.option(
    "--download", is_flag=True, help="Download missing files from cocodataset.org. [default splits: train2017, val2017]"
)
@click.option("--things-only", is_flag=True, help="Write only things to the detection JSON.")
def coco(
    root: Path,
    splits: tuple[str, ...],
    out: Path | None,
    workers: int | None,
    skip_bad_images: bool,
    as_json: bool,
    download: bool,
    things_only: bool,
) -> None:
    """Unpack and check COCO, and write the detection JSON.

    docs/data.md shows the supported layouts. Test splits have a list of images but no annotations.

    \b
    panformer prepare-data coco --root /data/coco
    panformer prepare-data coco --root /data/coco --download --split val2017
    panformer prepare-data coco --root /data/coco --split test-dev2017
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.data.parallel import available_cores
    from panformer_cli.prepare.coco.coco import prepare_coco
    from panformer_cli.prepare.coco.download import download_coco
    from panformer_cli.prepare.coco.unlabeled_images import is_unlabeled_split, prepare_unlabeled_images
    from panformer_cli.prepare.convert import ConvertOptions

    reporter, options = RichReporter(), ConvertOptions(workers or available_cores(), skip_bad_images)
    if download:
        download_coco(root, splits, reporter)
    annotated = [split for split in splits if not is_unlabeled_split(split)]
    prepared = []
    if annotated or not splits:
        prepared = prepare_coco(root, annotated, options, reporter, "things" if things_only else "all", out)
    tests = [
        prepare_unlabeled_images(root, split, options, reporter, out) for split in splits if is_unlabeled_split(split)
    ]
    _show(root, prepared, tests, as_json)


@click.command()
@in_place_options
def custom(
    root: Path, splits: tuple[str, ...], out: Path | None, workers: int | None, skip_bad_images: bool, as_json: bool
) -> None:
    """Check a data set that is already in COCO panoptic format.

    Writes a summary and a manifest. For a more thorough check with repairs, use `panformer prepare-data verify DIR`.

    \b
    panformer prepare-data custom --root data/mine
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.data.parallel import available_cores
    from panformer_cli.prepare.coco.coco import prepare_custom
    from panformer_cli.prepare.convert import ConvertOptions

    options = ConvertOptions(workers or available_cores(), skip_bad_images)
    _show(root, prepare_custom(root, splits, options, RichReporter(), out), [], as_json)


def _show(root: Path, prepared: Sequence[Prepared], tests: Sequence[UnlabeledImages], as_json: bool) -> None:
    """Print the annotated splits and the test splits."""
    summaries = [split.summary for split in prepared]
    if as_json:
        print_json({"root": str(root), "splits": {**splits_json(summaries), **dict(map(_test_json, tests))}})
        return
    if prepared:
        print_summaries(str(root), summaries)
    for split in prepared:
        if split.detection is not None:
            click.echo(f"{split.summary.split}: {split.detection}")
    for test in tests:
        _show_test(test)


def _test_json(test: UnlabeledImages) -> tuple[str, dict[str, Any]]:
    return test.split, {"images": test.images, "folder": str(test.folder), "info": str(test.info)}


def _show_test(test: UnlabeledImages) -> None:
    click.echo(f"{test.split}: {counted(test.images, 'image')} in {test.folder}, listed in {test.info}")
    hint(f"Next: panformer predict {test.folder} --submission panoptic_{test.split}_MODEL_results.zip --out DIR")
