"""`panformer visualize`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from panformer_cli.cli.options import colors_option, json_option
from panformer_cli.wording import counted

if TYPE_CHECKING:
    from panformer_cli.visualization.colors import Palette

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option("--data", type=FOLDER, metavar="ROOT", help="Data set in COCO layout; its ground truth is drawn.")
@click.option(
    "--split", metavar="S", help="Split of the data set. [default: val2017, else the only one, else the only val*]"
)
@click.option(
    "--predictions",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PRED.json",
    help="Panoptic JSON of `evaluate` or `predict`, next to the folder of its PNGs.",
)
@click.option("--images", type=FOLDER, metavar="DIR", help="Folder of the predicted images, if not in --data.")
@click.option(
    "--run", type=click.Path(path_type=Path), metavar="DIR", help="Run folder; its training curves are drawn."
)
@click.option("--out", "-o", type=FOLDER, default="viz", show_default=True, help="Folder for index.html and overlays/.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Draw at most N images.")
@colors_option
@json_option
@click.option("--no-labels", is_flag=True, help="Do not draw the class names.")
def visualize(
    data: Path | None,
    split: str | None,
    predictions: Path | None,
    images: Path | None,
    run: Path | None,
    out: Path,
    limit: int | None,
    palette: Palette,
    no_labels: bool,
    as_json: bool,
) -> None:
    """Draw ground truth, predictions, or both side by side, and training curves.

    Writes images to OUT/overlays, and an HTML page, OUT/index.html, that can be opened from disk.

    \b
    panformer visualize --data datasets/coco --split val2017 --limit 50
    panformer visualize --data datasets/coco --predictions runs/r50/evaluation/panoptic.json
    panformer visualize --predictions out/panoptic.json --images photos
    panformer visualize --run runs/tiny/2030-01-31_12-00-00
    """  # noqa: D301 (click needs the control character, not a backslash and a letter)
    from panformer_cli.console import RichReporter
    from panformer_cli.engine.visualize import VisualizeRequest, checkpoint_of
    from panformer_cli.engine.visualize import visualize as draw
    from panformer_cli.visualization.drawing import DrawOptions

    options = DrawOptions(labels=not no_labels)
    request = VisualizeRequest(out, data, split, predictions, images, run, limit, options, palette)
    checkpoint = checkpoint_of(request)
    if checkpoint and not as_json:
        click.echo(f"Checkpoint: {checkpoint}")
    result = draw(request, RichReporter())
    if as_json:
        overlays = [str(path) for path in result.overlays]
        click.echo(json.dumps({"page": str(result.page), "overlays": overlays, "checkpoint": checkpoint}, indent=2))
        return
    click.echo(f"{counted(len(result.overlays), 'image')} drawn; open {result.page} in a browser")
