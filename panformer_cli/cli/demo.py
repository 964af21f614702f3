"""`panformer demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.options import Compute
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
def demo(out: Path, images: int, overrides: tuple[str, ...]) -> None:
    """Train and evaluate a model on generated scenes; nothing is downloaded.

    Generates a data set, trains the recipe `tiny` on it, evaluates, predicts on the validation images, and writes a
    gallery of them and a report, HTML pages. Prints the PQ table and the paths of all results. If interrupted, rerun
    the same command to resume.
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
        _print(metrics, folders)


def _print(metrics: dict[str, Any], folders: DemoFolders) -> None:
    print_metrics(metrics)
    click.echo(f"Scenes:       {folders.scenes}")
    click.echo(f"Run:          {folders.run.path}")
    click.echo(f"Evaluation:   {folders.evaluation}")
    click.echo(f"Predictions:  {folders.predictions / 'overlays'}")
    click.echo(f"Gallery:      {folders.gallery}")
    click.echo(f"Report:       {folders.report}")
