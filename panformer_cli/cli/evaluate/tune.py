"""`panformer evaluate tune`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from panformer_cli.cli.options import Compute, compute_options, speed_options
from panformer_cli.cli.tables import print_tuning

if TYPE_CHECKING:
    from panformer_cli.engine.precision import PrecisionChoice


@click.command()
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), metavar="ROOT", help="Data set folder [that of training].")
@click.option("--split", metavar="S", help="Split, such as val2017 [that of training].")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the results and the cache.")
@click.option("--save", is_flag=True, help="Write a checkpoint with the thresholds found, if they are a gain.")
@speed_options
@compute_options
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def action(
    checkpoint: Path | None,
    data: Path | None,
    split: str | None,
    out: Path | None,
    save: bool,
    batch_size: int,
    precision: PrecisionChoice,
    compute: Compute,
    as_json: bool,
) -> None:
    """Search the thresholds of merging: quality, and overlap of things and stuff.

    The model runs once over the split; half of the images, drawn at random, serve to search and the other half to
    judge the gain, with its interval. --save writes `<name>-tuned.safetensors` beside CHECKPOINT.

    \b
    panformer evaluate tune
    panformer evaluate tune r50 --data /data/coco --split val2017
    """
    from panformer_cli.engine.evaluation.tune import TuneRequest, save_thresholds, tune, tuned_path
    from panformer_cli.engine.runs import find_checkpoint, results_folder

    with compute.joined() as (process, reporter):
        found = process.on_first(lambda: find_checkpoint(checkpoint, reporter))
        folder = out or results_folder(found).with_name("tuning")
        tuning = tune(TuneRequest(found, folder, data, split, batch_size, precision), process, reporter)
        if as_json:
            click.echo(json.dumps(tuning.to_json(), indent=2))
        else:
            print_tuning(tuning.to_json())
        if save and tuning.is_gain:
            process.on_first(lambda: save_thresholds(found, tuning.after, tuned_path(found)))
            reporter.message(f"Saved {tuned_path(found)}")
        elif save:
            reporter.message("Nothing was saved: the gain may be chance, its interval holds 0")
