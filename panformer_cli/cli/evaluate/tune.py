"""`panformer evaluate tune`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from panformer_cli.cli.evaluate.options import PATH, ModelOptions, model_options
from panformer_cli.cli.evaluate.routing import Subcommand
from panformer_cli.cli.options import json_option
from panformer_cli.cli.tables import print_tuning


@click.command(cls=Subcommand)
@click.option(
    "--out",
    "-o",
    type=PATH,
    metavar="DIR",
    help="Folder for results and cache. [default: tuning/ next to the checkpoint]",
)
@click.option("--save", is_flag=True, help="Write a checkpoint with the new thresholds if the gain is significant.")
@json_option
@model_options
def tune(out: Path | None, save: bool, as_json: bool, model: ModelOptions) -> None:
    """Tune the merging thresholds of a checkpoint.

    CHECKPOINT is a file, a run folder or the name of published weights. [default: the newest run in ./runs]

    The model runs once over the split. A random half of the images is used to search for the best thresholds of score,
    thing overlap and stuff overlap, the other half to measure the gain with a confidence interval. --save writes
    `<name>-tuned.safetensors` next to CHECKPOINT.

    \b
    panformer evaluate tune
    panformer evaluate tune r50 --data /data/coco --split val2017
    """
    from panformer_cli.engine.evaluation.tune import TuneRequest, save_thresholds, tuned_path
    from panformer_cli.engine.evaluation.tune import tune as run_tuning
    from panformer_cli.engine.runs import check_can_be_changed

    with model.compute.joined() as (process, reporter):
        if save and model.checkpoint is not None:
            check_can_be_changed(model.checkpoint)
        run = model.request(out, as_json, process, reporter)
        request = TuneRequest(
            checkpoint=run.checkpoint,
            out=out or run.out.with_name("tuning"),
            data_root=run.data_root,
            split=run.split,
            batch_size=run.batch_size,
            precision=run.precision,
            changes=run.changes,
        )
        tuning = run_tuning(request, process, reporter)
        if as_json:
            click.echo(json.dumps(tuning.to_json(), indent=2))
        else:
            print_tuning(tuning.to_json())
        if save and tuning.is_gain:
            process.on_first(lambda: save_thresholds(run.checkpoint, tuning.after, tuned_path(run.checkpoint)))
            reporter.message(f"Saved {tuned_path(run.checkpoint)}")
        elif save:
            reporter.message("Nothing was saved: the gain is not significant")
