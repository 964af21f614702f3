"""`panformer evaluate checkpoint`, the default subcommand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from panformer_cli.cli.evaluate.options import (
    METRICS,
    PATH,
    ModelOptions,
    bootstrap_option,
    metrics_option,
    model_options,
)
from panformer_cli.cli.evaluate.results import Outputs, output_options, show_results
from panformer_cli.cli.evaluate.routing import Subcommand
from panformer_cli.cli.network_options import network_options
from panformer_cli.cli.options import Submission, submission_options, write_submission

if TYPE_CHECKING:
    from panformer_cli.engine.combined.options import InferenceOptions
    from panformer_cli.metrics.evaluator import MetricName


@click.command(cls=Subcommand)
@metrics_option(METRICS)
@bootstrap_option
@click.option(
    "--out",
    "-o",
    type=PATH,
    metavar="DIR",
    help="Folder for the results. [default: evaluation/ next to the checkpoint]",
)
@click.option("--resume", is_flag=True, help="Resume an interrupted evaluation.")
@output_options
@network_options
@submission_options
@model_options
def checkpoint(
    metrics: tuple[MetricName, ...],
    bootstrap: int,
    out: Path | None,
    resume: bool,
    outputs: Outputs,
    inference: InferenceOptions,
    submission: Submission | None,
    model: ModelOptions,
) -> None:
    """Evaluate a checkpoint; this is the default command.

    CHECKPOINT is a file, a run folder or the name of published weights. [default: the newest run in ./runs]

    Prints PQ, SQ and RQ overall, for things, for stuff, by class and by size, and where PQ was lost. Writes these
    results, and the predictions as panoptic PNGs and JSON in COCO format.

    \b
    panformer evaluate
    panformer evaluate r50 --data /data/coco --metrics all --report report/
    panformer evaluate checkpoint runs/tiny/2026-11-22_10-00-00 --gpus 8
    """
    from panformer_cli.engine.evaluation.evaluate import apart, evaluate

    with model.compute.joined() as (process, reporter):
        request = model.request(out, outputs.as_json, process, reporter)
        request = replace(request, metrics=metrics, resamples=bootstrap, resume=resume, inference=inference)
        process.on_first(lambda: outputs.check(request.out))
        request, of_transformers = apart(request)
        other = evaluate(of_transformers, process, reporter) if of_transformers else None
        results = evaluate(request, process, reporter)
        process.on_first(lambda: show_results(results, request.out, outputs, reporter, other))
        if submission:
            process.on_first(lambda: write_submission(submission, request.out, reporter))
        if not outputs.as_json:
            click.echo(f"Predictions and metrics: {request.out}")
