"""`panformer prepare-data cityscapes`, `ade20k` and `mapillary`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.prepare_data.options import Conversion, conversion_options, run_conversion

if TYPE_CHECKING:
    from panformer_cli.prepare.published.mapillary import Version


@click.command()
@conversion_options
def cityscapes(root: Path, **conversion: Any) -> None:
    """Convert Cityscapes: leftImg8bit and gtFine in one folder.

    Reads the instance maps, or else panoptic PNGs that cityscapesScripts has made. 8 things and 11 stuff classes, by
    label id.

    \b
    panformer prepare-data cityscapes --root /data/cityscapes --out data/cityscapes
    """
    from panformer_cli.prepare.published.cityscapes import Cityscapes

    run_conversion(Cityscapes(root), Conversion(**conversion))


@click.command()
@conversion_options
def ade20k(root: Path, **conversion: Any) -> None:
    """Convert ADE20K: ADEChallengeData2016 with its instances.

    The folder annotations_instance lies in it. 100 things and 50 stuff classes, with the ids 0 to 149.

    \b
    panformer prepare-data ade20k --root /data/ADEChallengeData2016 --out data/ade20k
    """
    from panformer_cli.prepare.published.ade20k import Ade20k

    run_conversion(Ade20k(root), Conversion(**conversion))


@click.command()
@conversion_options
@click.option("--version", type=click.Choice(["v1.2", "v2.0"]), help="Of the annotations [the newest there].")
def mapillary(root: Path, version: Version | None, **conversion: Any) -> None:
    """Convert Mapillary Vistas, v1.2 or v2.0.

    Reads the panoptic PNGs, or else the 16-bit instance maps. 65 classes in v1.2, 116 in v2.0.

    \b
    panformer prepare-data mapillary --root /data/vistas --out data/vistas --version v1.2
    """
    from panformer_cli.prepare.published.mapillary import MapillaryVistas

    run_conversion(MapillaryVistas.open(root, version), Conversion(**conversion))
