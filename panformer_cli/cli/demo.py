"""`panformer demo`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.options import Compute, json_option
from panformer_cli.cli.tables import print_metrics

if TYPE_CHECKING:
    from panformer_cli.engine.demo import DemoFolders


@click.command()
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder for all results.",
)
@click.option(
    "--images", type=click.IntRange(min=4), default=4000, show_default=True, help="Number of training scenes."
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting of the recipe tiny; can be repeated.",
)
@json_option
def demo(out: Path, images: int, overrides: tuple[str, ...], as_json: bool) -> None:
    """Train and evaluate a model on generated scenes; nothing is downloaded.

    Generates a data set, trains the recipe `tiny` on it, evaluates, predicts on the validation images, and writes a
    gallery of them and a report, HTML pages. Prints the PQ table and the paths of all results. If interrupted, rerun
    the same command to resume.

    \b
    panformer demo
    panformer demo --images 200 --out quick
    """
    from panformer_cli.data.scenes.options import SceneOptions
    from panformer_cli.engine.demo import DemoFolders
    from panformer_cli.engine.demo import demo as run_demo
    from panformer_cli.recipe_io import load_recipe

    folders = DemoFolders(out)
    scenes = SceneOptions(train_images=images)
    with Compute().joined() as (process, reporter):
        try:
            metrics = run_demo(load_recipe("tiny", overrides), folders, scenes, process, reporter)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt("Stopped; rerun the same command to resume.") from error
        if as_json:
            click.echo(json.dumps({"metrics": metrics, "paths": _paths(folders)}, indent=2))
        else:
            _print(metrics, folders)


def _print(metrics: dict[str, Any], folders: DemoFolders) -> None:
    print_metrics(metrics)
    for name, path in _paths(folders).items():
        click.echo(f"{name + ':':13} {path}")


def _paths(folders: DemoFolders) -> dict[str, str]:
    """Return the results by their names."""
    return {
        "Scenes": str(folders.scenes),
        "Run": str(folders.run.path),
        "Evaluation": str(folders.evaluation),
        "Predictions": str(folders.predictions / "overlays"),
        "Gallery": str(folders.gallery),
        "Report": str(folders.report),
    }
