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
    """Convert Cityscapes (leftImg8bit and gtFine).

    Reads the instance maps, or panoptic PNGs made by cityscapesScripts if there are none. The result has 8 thing and 11
    stuff classes, by label id.

    \b
    panformer prepare-data cityscapes --root /data/cityscapes --out data/cityscapes
    """
    from panformer_cli.prepare.published.cityscapes import Cityscapes

    run_conversion(Cityscapes(root), Conversion(**conversion))


@click.command()
@conversion_options
def ade20k(root: Path, **conversion: Any) -> None:
    """Convert ADE20K (ADEChallengeData2016 with instances).

    The folder must contain annotations_instance. The result has 100 thing and 50 stuff classes with ids 0 to 149.

    \b
    panformer prepare-data ade20k --root /data/ADEChallengeData2016 --out data/ade20k
    """
    from panformer_cli.prepare.published.ade20k import Ade20k

    run_conversion(Ade20k(root), Conversion(**conversion))


@click.command()
@conversion_options
@click.option("--version", type=click.Choice(["v1.2", "v2.0"]), help="Annotation version. [default: newest available]")
def mapillary(root: Path, version: Version | None, **conversion: Any) -> None:
    """Convert Mapillary Vistas, v1.2 or v2.0.

    Reads the panoptic PNGs, or the 16-bit instance maps if there are none. The result has 65 classes for v1.2 and 116
    for v2.0.

    \b
    panformer prepare-data mapillary --root /data/vistas --out data/vistas --version v1.2
    """
    from panformer_cli.prepare.published.mapillary import MapillaryVistas

    run_conversion(MapillaryVistas.open(root, version), Conversion(**conversion))
