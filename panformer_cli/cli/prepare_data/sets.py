"""`panformer prepare-data subset`, `split`, `merge` and `remap`: new data sets out of prepared ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.prepare_data.options import Conversion, conversion_options, run_conversion

if TYPE_CHECKING:
    from panformer_cli.prepare.sets.existing import ExistingSets

FILE = click.Path(path_type=Path, dir_okay=False)
seed_option = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the choice.")


@click.command()
@conversion_options
@click.option("--images", type=click.IntRange(min=1), metavar="N", help="So many of each split, stratified by class.")
@click.option("--list", "listed", type=FILE, metavar="FILE", help="Those that a text file names, one a line.")
@seed_option
def subset(root: Path, images: int | None, listed: Path | None, seed: int, **conversion: Any) -> None:
    """Take some of the images of a data set.

    N of each split, every class in its share, or those of a list.

    \b
    panformer prepare-data subset --root /data/coco --split train2017 --images 5000 --out /data/coco5000
    """
    from panformer_cli.prepare.sets.derived import subset as source

    if (images is None) == (listed is None):
        raise click.UsageError("give one of --images and --list.")
    chosen = images if listed is None else listed
    assert chosen is not None
    options = Conversion(**conversion)
    _convert(source(root, options.splits, chosen, seed), options)


@click.command()
@conversion_options
@click.option("--val", type=float, default=0.1, show_default=True, help="Held out: a share below 1, or a number.")
@seed_option
def split(root: Path, val: float, seed: int, **conversion: Any) -> None:
    """Divide a data set into `train` and `val`.

    Every class keeps its share in both.

    \b
    panformer prepare-data split --root data/mine --val 0.2 --out data/divided
    """
    from panformer_cli.prepare.sets.derived import split as source

    options = Conversion(**conversion)
    if len(options.splits) > 1:
        raise click.UsageError("--split is given more than once; expected one split to divide")
    _convert(source(root, next(iter(options.splits), None), val, seed), options)


@click.command()
@conversion_options
@click.option(
    "--with", "second", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder of the other set."
)
@click.option("--map", "category_map", type=FILE, metavar="YAML", help="Categories of the other set, as for remap.")
def merge(root: Path, second: Path, category_map: Path | None, **conversion: Any) -> None:
    """Bring two data sets together.

    They get one table of categories; equal names are one category.

    \b
    panformer prepare-data merge --root data/a --with data/b --map b_to_a.yaml --out data/both
    """
    from panformer_cli.prepare.sets.derived import merge as source

    options = Conversion(**conversion)
    _convert(source(root, second, options.splits, category_map), options)


@click.command()
@conversion_options
@click.option("--map", "category_map", type=FILE, required=True, metavar="YAML", help="`old name: new name`, or void.")
def remap(root: Path, category_map: Path, **conversion: Any) -> None:
    """Rename, unite or leave out categories.

    docs/data.md shows the form of the map.

    \b
    panformer prepare-data remap --root data/mine --map fewer.yaml --out data/fewer
    """
    from panformer_cli.prepare.sets.derived import remap as source

    options = Conversion(**conversion)
    _convert(source(root, options.splits, category_map), options)


def _convert(source: ExistingSets, options: Conversion) -> None:
    from panformer_cli.console import RichReporter

    if source.skipped:
        what = f"{len(source.skipped)} images are listed but not annotated, and left out"
        RichReporter().warn(f"{what}; first: {source.skipped[0]}")
    run_conversion(source, options.of_all_splits())
