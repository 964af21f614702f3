"""`panformer visualize`."""

from __future__ import annotations

from pathlib import Path

import click

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option("--data", type=FOLDER, metavar="ROOT", help="Data set in COCO's layout; draws its ground truth.")
@click.option("--split", default="val2017", show_default=True, metavar="S", help="Split of the data set.")
@click.option(
    "--predictions",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PRED.json",
    help="Panoptic JSON of `evaluate` or `predict`; its PNGs are in the folder of the same name beside it.",
)
@click.option("--images", type=FOLDER, metavar="DIR", help="Images of the predictions, where no --data has them.")
@click.option("--run", type=click.Path(path_type=Path), metavar="DIR", help="Folder of `train`; draws its curves.")
@click.option("--out", type=FOLDER, default="viz", show_default=True, help="Gets index.html and overlays/.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Draw at most N images.")
@click.option("--no-labels", is_flag=True, help="Leave out the names of the segments.")
def visualize(
    data: Path | None,
    split: str,
    predictions: Path | None,
    images: Path | None,
    run: Path | None,
    out: Path,
    limit: int | None,
    no_labels: bool,
) -> None:
    """Draw a data set's ground truth, saved predictions, or both side by side, and a run's curves.

    Writes pictures to OUT/overlays and one page, OUT/index.html, that opens from disk.

    \b
    panformer visualize --data datasets/coco --split val2017 --limit 50
    panformer visualize --data datasets/coco --predictions runs/r50/evaluation/panoptic.json
    panformer visualize --predictions out/panoptic.json --images photos
    panformer visualize --run runs/tiny/2030-01-31_12-00-00
    """  # noqa: D301 (click knows the control character, not the two letters)
    from panformer_cli.console import RichReporter
    from panformer_cli.engine.visualize import VisualizeRequest
    from panformer_cli.engine.visualize import visualize as draw
    from panformer_cli.visualization.drawing import DrawOptions

    options = DrawOptions(labels=not no_labels)
    result = draw(VisualizeRequest(out, data, split, predictions, images, run, limit, options), RichReporter())
    click.echo(f"{len(result.pictures)} pictures; open {result.page} in a browser")
