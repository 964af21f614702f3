"""`panformer prepare-data coco-instances`, `png-pairs` and `masks`: common mask formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.prepare_data.options import (
    Conversion,
    conversion_options,
    overlap_option,
    run_conversion,
    stuff_option,
)

if TYPE_CHECKING:
    from panformer_cli.prepare.masks.png_pairs import CrowdInstance
    from panformer_cli.prepare.overlap import OverlapRule

_FILE = click.Path(path_type=Path)


@click.command("coco-instances")
@conversion_options
@overlap_option
@click.option("--classes", type=_FILE, metavar="FILE", help="CSV or YAML file that marks stuff categories.")
@click.option("--stuff-masks", type=_FILE, metavar="DIR", help="Folder of PNGs with a stuff class id per pixel.")
def coco_instances(
    root: Path, overlap: OverlapRule, classes: Path | None, stuff_masks: Path | None, **conversion: Any
) -> None:
    """Convert COCO instance annotations (polygons or RLE).

    Reads annotations/instances_<split>.json or a Roboflow export. All categories are things except those that --classes
    marks as stuff. See docs/data.md for details.

    \b
    panformer prepare-data coco-instances --root /data/boxes --out /data/boxes-panoptic
    """
    from panformer_cli.prepare.masks.coco_instances import open_coco_instances

    source = open_coco_instances(root, conversion["splits"], overlap, classes, stuff_masks)
    run_conversion(source, Conversion(**conversion))


@click.command("png-pairs")
@conversion_options
@click.option("--classes", type=_FILE, required=True, metavar="FILE", help="CSV or YAML file with the classes.")
@click.option(
    "--void",
    type=click.IntRange(0, 65535),
    multiple=True,
    metavar="ID",
    help="Class id to treat as void. Can be repeated. 0 and 255 are void unless they are classes.",
)
@click.option(
    "--crowd-instance",
    type=click.Choice(["0", "255", "none"]),
    help="Instance id that marks crowds of thing classes. [default: 0, unless both 0 and 255 occur]",
)
def png_pairs(
    root: Path, classes: Path, void: tuple[int, ...], crowd_instance: CrowdInstance | None, **conversion: Any
) -> None:
    """Convert PNGs of class and instance ids.

    Reads two PNGs per image, semantic/<split>/*.png and instance/<split>/*.png, or one, panoptic/<split>/*.png, with
    the class in R and the instance in G and B. See docs/data.md for details.

    \b
    panformer prepare-data png-pairs --root /data/mine --classes classes.csv --out /data/mine-panoptic
    """
    from panformer_cli.prepare.masks.png_pairs import open_png_pairs

    run_conversion(open_png_pairs(root, classes, void, crowd_instance), Conversion(**conversion))


@click.command("masks")
@conversion_options
@overlap_option
@stuff_option
@click.option(
    "--classes", type=_FILE, required=True, metavar="FILE", help="CSV, YAML or text file (one name per line)."
)
def masks(root: Path, overlap: OverlapRule, classes: Path, stuff: tuple[str, ...], **conversion: Any) -> None:
    """Convert folders of masks, with a class file.

    Reads one PNG per object, masks/<split>/<image>/car_2.png, or one PNG per image with class colors or ids. See
    docs/data.md for details.

    \b
    panformer prepare-data masks --root /data/mine --classes classes.csv --out /data/mine-panoptic
    """
    from panformer_cli.prepare.masks.mask_folder import open_mask_folder

    run_conversion(open_mask_folder(root, classes, overlap, stuff), Conversion(**conversion))
