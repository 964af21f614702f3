"""`panformer prepare-data subset`, `split`, `merge` and `remap`: new data sets from prepared ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.options import announcer
from panformer_cli.cli.prepare_data.options import Conversion, conversion_options, run_conversion, warn_of_skipped
from panformer_cli.wording import counted

if TYPE_CHECKING:
    from panformer_cli.prepare.sets.existing import ExistingSets

FILE = click.Path(path_type=Path, dir_okay=False)
seed_option = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed.")


@click.command()
@conversion_options
@click.option(
    "--images", type=click.IntRange(min=1), metavar="N", help="Number of images per split, stratified by class."
)
@click.option("--list", "listed", type=FILE, metavar="FILE", help="Text file of images, one file name or id per line.")
@seed_option
def subset(root: Path, images: int | None, listed: Path | None, seed: int, **conversion: Any) -> None:
    """Select some of the images of a data set.

    Takes N images per split, stratified by class, or the images of a list.

    \b
    panformer prepare-data subset --root /data/coco --split train2017 --images 5000 --out /data/coco5000
    """
    from panformer_cli.prepare.sets.derived import subset as source

    if (images is None) == (listed is None):
        raise click.UsageError("pass either --images or --list.")
    chosen = images if listed is None else listed
    assert chosen is not None
    options = Conversion(**conversion)
    _convert(source(root, options.splits, chosen, seed), options)


@click.command()
@conversion_options
@click.option(
    "--val", type=float, default=0.1, show_default=True, help="Validation images: a fraction below 1, or a number."
)
@seed_option
def split(root: Path, val: float, seed: int, **conversion: Any) -> None:
    """Split a data set into `train` and `val`.

    The split is stratified by class. Every class in two images or more has an image in both, if possible.

    \b
    panformer prepare-data split --root data/mine --val 0.2 --out data/divided
    """
    from panformer_cli.prepare.sets.derived import split as source

    options = Conversion(**conversion)
    if len(options.splits) > 1:
        raise click.UsageError("--split was passed more than once; expected one split to divide")
    _convert(source(root, next(iter(options.splits), None), val, seed), options)


@click.command()
@conversion_options
@click.option(
    "--with",
    "second",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder of the second data set.",
)
@click.option(
    "--map", "category_map", type=FILE, metavar="YAML", help="Category map for the second data set, as in remap."
)
@click.option(
    "--replace",
    "replaces",
    is_flag=True,
    help="Use the annotations of the second data set for the images with the same file name, instead of adding images.",
)
def merge(root: Path, second: Path, category_map: Path | None, replaces: bool, **conversion: Any) -> None:
    """Merge two data sets.

    Categories with the same name become one.

    \b
    panformer prepare-data merge --root data/a --with data/b --map b_to_a.yaml --out data/both
    panformer prepare-data merge --root data/a --with data/b --replace --out data/better
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.prepare.sets.derived import merge as source

    options = Conversion(**conversion)
    merged = source(root, second, options.splits, category_map, replaces)
    _convert(merged, options)
    if replaces:
        used = [one for chosen in merged.chosen.values() for one in chosen]
        replaced = sum(len(one.indices) for one in used if one.originals is not None)
        total = counted(sum(len(one.indices) for one in used), "image")
        announcer(options.as_json, RichReporter())(f"Annotations replaced: those of {replaced} of {total}")


@click.command()
@conversion_options
@click.option(
    "--map", "category_map", type=FILE, required=True, metavar="YAML", help="Lines of `old name: new name`, or void."
)
def remap(root: Path, category_map: Path, **conversion: Any) -> None:
    """Rename, merge or drop categories.

    docs/data.md shows the format of the map.

    \b
    panformer prepare-data remap --root data/mine --map fewer.yaml --out data/fewer
    """
    from panformer_cli.prepare.sets.derived import remap as source

    options = Conversion(**conversion)
    _convert(source(root, options.splits, category_map), options)


def _convert(source: ExistingSets, options: Conversion) -> None:
    from panformer_cli.console import RichReporter

    warn_of_skipped(source, RichReporter())
    run_conversion(source, options.of_all_splits())
    for remark in source.remarks:
        RichReporter().warn(remark)
