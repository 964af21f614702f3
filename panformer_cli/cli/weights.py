"""`panformer weights`: the published checkpoints, and files of the authors' form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from panformer_cli.cli.groups import SuggestingGroup

if TYPE_CHECKING:
    from panformer_cli.models.published import PublishedWeights


@click.group(cls=SuggestingGroup)
def weights() -> None:
    """The weights that the authors of Panoptic SegFormer published.

    Their names stand wherever a checkpoint does; the file is downloaded when it is first used.
    """


@weights.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON; sizes are bytes.")
def list_weights(as_json: bool) -> None:
    """The names, their published PQ on COCO val2017, and which ones are in the cache.

    PANFORMER_HOME names another folder for the cache, and PANFORMER_WEIGHTS_URL the address of a folder with the same
    files.
    """
    from panformer_cli.console import print_table
    from panformer_cli.engine.checkpoints.published import PUBLISHED
    from panformer_cli.models.published import weights_folder

    if as_json:
        click.echo(json.dumps([_as_json(row) for row in PUBLISHED.values()], indent=2))
        return
    columns = ("name", "backbone", "PQ", "things", "stuff", "MB", "cached", "file")
    rows = [
        (row.name, row.backbone, row.pq, row.pq_things, row.pq_stuff)
        + (_megabytes(row.known_size), "yes" if row.path.is_file() else "no", row.file)
        for row in PUBLISHED.values()
    ]
    print_table("Published weights: PQ on COCO val2017, percent", columns, rows)
    for folder in dict.fromkeys(row.address.rpartition("/")[0] for row in PUBLISHED.values()):
        click.echo(f"From: {folder}")
    click.echo(f"Cache: {weights_folder()}")


@weights.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder of the checkpoint.")
@click.option("--recipe", metavar="NAME", help="Recipe of the model [that of the name, or inferred from the shapes].")
@click.option(
    "--categories", type=click.Path(path_type=Path), metavar="ANNOTATION.json", help="Its categories [those of COCO]."
)
def import_file(file: Path, out: Path, recipe: str | None, categories: Path | None) -> None:
    """Write FILE, a .pth of the authors or a published name, to DIR as panformer's own checkpoint.

    DIR gets model.safetensors and recipe.yaml, and stands for the checkpoint then. Commands also take a .pth as it is.

    \b
    panformer weights import r50 --out weights/r50
    panformer weights import mine.pth --out weights/mine --recipe r101 --categories annotations/panoptic_train.json
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.engine.checkpoints.import_official import import_weights
    from panformer_cli.engine.checkpoints.published import published_at
    from panformer_cli.engine.runs import find_checkpoint

    reporter = RichReporter()
    source = find_checkpoint(file, reporter)
    published = published_at(source)  # r50 and r50_1x have equal shapes; their names tell them apart
    name = published.name if recipe is None and published else recipe
    written = import_weights(source, out, name, categories, reporter)
    click.echo(f"Checkpoint: {written}")


def _as_json(row: PublishedWeights) -> dict[str, str | float | bool | None]:
    return {
        "name": row.name,
        "backbone": row.backbone,
        "pq": row.pq,
        "pq_things": row.pq_things,
        "pq_stuff": row.pq_stuff,
        "size": row.known_size,
        "cached": row.path.is_file(),
        "address": row.address,
        "path": str(row.path),
    }


def _megabytes(size: int | None) -> int | None:
    return None if size is None else round(size / 1e6)
