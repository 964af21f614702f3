"""`panformer evaluate robustness`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from panformer_cli.cli.evaluate.options import PATH, ModelOptions, model_options, seed_option
from panformer_cli.cli.evaluate.routing import Subcommand
from panformer_cli.cli.options import json_option
from panformer_cli.cli.tables import print_robustness


@click.command(cls=Subcommand)
@click.option(
    "--corruptions",
    default="all",
    show_default=True,
    metavar="all|LIST",
    help="Corruptions to apply, one at a time: all 16 of COCO-C, or some, such as fog,snow.",
)
@click.option("--severity", default="1-5", show_default=True, metavar="S", help="Severities, such as 3, 1-5 or 1,3.")
@click.option(
    "--images",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use a random sample of N images, drawn with --seed. [default: all]",
)
@seed_option
@click.option(
    "--out",
    "-o",
    type=PATH,
    metavar="DIR",
    help="Folder for the results. [default: evaluation/ next to the checkpoint]",
)
@json_option
@model_options
def robustness(
    corruptions: str,
    severity: str,
    images: int | None,
    seed: int,
    out: Path | None,
    as_json: bool,
    model: ModelOptions,
) -> None:
    """Evaluate a checkpoint on corrupted images.

    CHECKPOINT is a file, a run folder, the name of published weights, or a model that transformers saved, hf:OWNER/NAME
    or hf:FOLDER. [default: the newest run in ./runs]

    Prints PQ under blur, noise, weather and digital corruptions (docs/robustness.md). If interrupted, rerun the same
    command to resume. `panformer evaluate CHECKPOINT --corruptions all` is equivalent.

    \b
    panformer evaluate robustness best.safetensors
    panformer evaluate robustness r50 --data /data/coco --corruptions fog,snow --severity 1-3 --images 200
    """
    from panformer_cli.engine.evaluation.evaluate_robustness import RobustnessRequest, evaluate_robustness
    from panformer_cli.engine.evaluation.robustness import RobustnessOptions, parse_corruptions, parse_severities

    options = RobustnessOptions(parse_corruptions(corruptions), parse_severities(severity), images, seed)
    with model.compute.joined() as (process, reporter):
        evaluation = model.request(out, as_json, process, reporter)
        results = evaluate_robustness(RobustnessRequest(evaluation, options), process, reporter)
        if as_json:
            click.echo(json.dumps(results, indent=2))
        else:
            print_robustness(results)
            click.echo(f"Results: {evaluation.out / 'robustness.json'}")
