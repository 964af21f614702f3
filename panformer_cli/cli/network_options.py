"""Options that change how images are run through the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from panformer_cli.cli.option_group import option_group

if TYPE_CHECKING:
    from panformer_cli.engine.combined.options import InferenceOptions

mask_layers_option = click.option(
    "--mask-layers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Predict masks with the first N layers of the mask decoders; faster. [default: all]",
)


@option_group(
    "inference",
    click.option(
        "--tile",
        type=int,
        metavar="N",
        help="Run large images in tiles of N x N pixels, and join the results. [default: whole images]",
    ),
    click.option(
        "--tile-overlap",
        type=int,
        metavar="N",
        help="Pixels that adjacent tiles share. [default: an eighth of the tile]",
    ),
    click.option(
        "--tile-whole-image", is_flag=True, help="Also run the whole image, to find objects larger than a tile."
    ),
    click.option(
        "--tta",
        metavar="LIST",
        help="Average several views of each image: flip, scales (0.75 and 1.25), or factors such as flip,0.75,1.5. "
        "[default: the image only]",
    ),
    mask_layers_option,
)
def network_options(
    tile: int | None, tile_overlap: int | None, tile_whole_image: bool, tta: str | None, mask_layers: int | None
) -> InferenceOptions:
    """Add tiles, views and mask layers; the command receives `inference`, which is valid."""
    from panformer_cli.engine.combined.options import InferenceOptions, parse_views

    views = {} if tta is None else {"views": parse_views(tta)}
    return InferenceOptions(tile, tile_overlap, tile_whole_image, mask_layers=mask_layers, **views)
