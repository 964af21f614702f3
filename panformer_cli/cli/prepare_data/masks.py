"""`panformer prepare-data coco-instances`, `png-pairs` and `masks`: common mask formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.prepare_data.options import (
    Conversion,
    annotation_options,
    conversion_options,
    drop_small_option,
    encoding_option,
    output_options,
    overlap_option,
    run_conversion,
    stuff_option,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from panformer_cli.prepare.masks.coco_layout import CocoSplit
    from panformer_cli.prepare.masks.png_pairs import CrowdInstance
    from panformer_cli.prepare.overlap import OverlapRule

_FILE = click.Path(path_type=Path)


@click.command("coco-instances")
@click.option("--root", type=_FILE, metavar="DIR", help="Input folder. Not needed with --json.")
@click.option(
    "--json", "annotation", type=_FILE, metavar="FILE", help="The JSON, if it is not found in the input folder."
)
@click.option("--images", type=_FILE, metavar="DIR", help="Folder of the images. [default: the folder of --json]")
@output_options
@annotation_options
@encoding_option
@overlap_option
@click.option("--classes", type=_FILE, metavar="FILE", help="CSV or YAML file that marks stuff categories.")
@click.option("--stuff-masks", type=_FILE, metavar="DIR", help="Folder of PNGs with a stuff class id per pixel.")
def coco_instances(
    root: Path | None,
    annotation: Path | None,
    images: Path | None,
    overlap: OverlapRule,
    classes: Path | None,
    stuff_masks: Path | None,
    encoding: str | None,
    **conversion: Any,
) -> None:
    """Convert COCO instance annotations (polygons or RLE).

    Finds annotations/instances_<split>.json, Roboflow's exports, and other JSON files next to their images or next to a
    folder of images. --json and --images name those of one split, which --split names. All categories are things except
    those that --classes marks as stuff. See docs/data.md for details.

    \b
    panformer prepare-data coco-instances --root /data/boxes --out /data/boxes-panoptic
    panformer prepare-data coco-instances --json labels.json --images photos --out /data/panoptic
    """
    from panformer_cli.prepare.masks.coco_instances import open_coco_instances

    splits: tuple[str, ...] = conversion["splits"]
    home, layout = _coco_layout(root, annotation, images, splits)
    source = open_coco_instances(home, splits, overlap, classes, stuff_masks, encoding, layout)
    run_conversion(source, Conversion(**conversion))


def _coco_layout(
    root: Path | None, annotation: Path | None, images: Path | None, splits: tuple[str, ...]
) -> tuple[Path, Mapping[str, CocoSplit]]:
    """Return the input folder and its splits."""
    from panformer_cli.prepare.masks.coco_layout import find_splits, given_split, split_of

    if annotation is None:
        if images is not None:
            raise click.UsageError("--images needs --json FILE.")
        if root is None:
            raise click.UsageError("Missing option '--root' (or '--json').")
        return root, find_splits(root)
    if len(splits) > 1:
        raise click.UsageError("--json is the JSON of one split; pass --split once, or leave it out.")
    images = images or annotation.parent
    return root or images, given_split(annotation, images, next(iter(splits), "") or split_of(annotation))


@click.command("png-pairs")
@conversion_options
@drop_small_option
@encoding_option
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
    root: Path,
    classes: Path,
    void: tuple[int, ...],
    crowd_instance: CrowdInstance | None,
    encoding: str | None,
    **conversion: Any,
) -> None:
    """Convert PNGs of class and instance ids.

    Reads two PNGs per image, semantic/<split>/*.png and instance/<split>/*.png, or one, panoptic/<split>/*.png, with
    the class in R and the instance in G and B. See docs/data.md for details.

    \b
    panformer prepare-data png-pairs --root /data/mine --classes classes.csv --out /data/mine-panoptic
    """
    from panformer_cli.prepare.masks.png_pairs import open_png_pairs

    run_conversion(open_png_pairs(root, classes, void, crowd_instance, encoding), Conversion(**conversion))


@click.command("masks")
@conversion_options
@annotation_options
@encoding_option
@overlap_option
@stuff_option
@click.option(
    "--classes", type=_FILE, required=True, metavar="FILE", help="CSV, YAML or text file (one name per line)."
)
def masks(
    root: Path,
    overlap: OverlapRule,
    classes: Path,
    stuff: tuple[str, ...],
    encoding: str | None,
    **conversion: Any,
) -> None:
    """Convert folders of masks, with a class file.

    Reads one PNG per object, masks/<split>/<image>/car_2.png, or one PNG per image with class colors or ids. See
    docs/data.md for details.

    \b
    panformer prepare-data masks --root /data/mine --classes classes.csv --out /data/mine-panoptic
    """
    from panformer_cli.prepare.masks.mask_folder import open_mask_folder

    run_conversion(open_mask_folder(root, classes, overlap, stuff, encoding), Conversion(**conversion))
