"""`panformer evaluate compare`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from panformer_cli.cli.tables import print_comparison


@click.command()
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@click.option(
    "--annotations", type=click.Path(path_type=Path), metavar="GT.json", help="Of A and B as prediction JSONs."
)
@click.option("--gt-folder", type=click.Path(path_type=Path), metavar="D", help="PNGs of GT.json [beside it].")
@click.option(
    "--bootstrap", type=click.IntRange(min=1), default=1000, show_default=True, metavar="N", help="Resamples."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Of the resamples.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def action(
    first: Path,
    second: Path,
    annotations: Path | None,
    gt_folder: Path | None,
    bootstrap: int,
    seed: int,
    as_json: bool,
) -> None:
    """Is B better than A on the same images? Paired intervals, gains by class, the images that changed most.

    A and B are folders that `panformer evaluate` wrote; with --annotations they are panoptic JSONs of predictions.

    \b
    panformer evaluate compare runs/a/evaluation runs/b/evaluation
    panformer evaluate compare a.json b.json --annotations GT.json
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.engine.evaluation.compare import CompareOptions, compare_folders
    from panformer_cli.engine.evaluation.compare_predictions import compare_predictions

    if gt_folder is not None and annotations is None:
        raise click.UsageError("--gt-folder belongs to --annotations: give both.")
    options = CompareOptions(resamples=bootstrap, seed=seed)
    if annotations is None:
        comparison = compare_folders(first, second, options)
    else:
        comparison = compare_predictions((first, second), annotations, gt_folder, options, RichReporter())
    content = comparison.to_json()
    if as_json:
        click.echo(json.dumps(content, indent=2))
    else:
        print_comparison(content)
