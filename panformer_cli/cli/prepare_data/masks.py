"""`panformer prepare-data` for masks and PNGs that people have: COCO instances, pairs of PNGs, folders of masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.prepare_data.options import Conversion, conversion_options, overlap_option, run_conversion

if TYPE_CHECKING:
    from panformer_cli.prepare.overlap import OverlapRule

_FILE = click.Path(path_type=Path)


@click.command("coco-instances")
@conversion_options
@overlap_option
@click.option("--classes", type=_FILE, metavar="FILE", help="CSV or YAML that says which categories are stuff.")
@click.option("--stuff-masks", type=_FILE, metavar="DIR", help="PNGs with the id of a stuff class for every pixel.")
def coco_instances(
    root: Path, overlap: OverlapRule, classes: Path | None, stuff_masks: Path | None, **conversion: Any
) -> None:
    """Convert COCO instance annotations, polygons or RLE.

    They are annotations/instances_<split>.json, or an export of Roboflow. All categories are things, but for those
    that --classes says are stuff. docs/data.md has the details.

    \b
    panformer prepare-data coco-instances --root /data/boxes --out /data/boxes-panoptic
    """
    from panformer_cli.prepare.masks.coco_instances import open_coco_instances

    source = open_coco_instances(root, conversion["splits"], overlap, classes, stuff_masks)
    run_conversion(source, Conversion(**conversion))


@click.command("png-pairs")
@conversion_options
@click.option("--classes", type=_FILE, required=True, metavar="FILE", help="CSV or YAML with the classes.")
@click.option(
    "--void",
    type=click.IntRange(0, 65535),
    multiple=True,
    metavar="ID",
    help="A class id that is void; may be repeated. 0 and 255 are, unless they are classes.",
)
def png_pairs(root: Path, classes: Path, void: tuple[int, ...], **conversion: Any) -> None:
    """Convert PNGs of class and instance ids, two or one.

    Two: semantic/<split>/*.png and instance/<split>/*.png. One: panoptic/<split>/*.png, R the class, G and B the
    instance. docs/data.md has the details.

    \b
    panformer prepare-data png-pairs --root /data/mine --classes classes.csv --out /data/mine-panoptic
    """
    from panformer_cli.prepare.masks.png_pairs import open_png_pairs

    run_conversion(open_png_pairs(root, classes, void), Conversion(**conversion))


@click.command("masks")
@conversion_options
@overlap_option
@click.option("--classes", type=_FILE, required=True, metavar="FILE", help="CSV or YAML with the classes.")
def masks(root: Path, overlap: OverlapRule, classes: Path, **conversion: Any) -> None:
    """Convert folders of masks, with a file of classes.

    A PNG for each object, masks/<split>/<image>/car_2.png, or one of class colours or ids for each image. docs/data.md
    has the details.

    \b
    panformer prepare-data masks --root /data/mine --classes classes.csv --out /data/mine-panoptic
    """
    from panformer_cli.prepare.masks.mask_folder import open_mask_folder

    run_conversion(open_mask_folder(root, classes, overlap), Conversion(**conversion))
