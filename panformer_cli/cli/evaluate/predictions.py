"""`panformer evaluate predictions`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from panformer_cli.cli.evaluate.options import METRICS, PATH, bootstrap_option, metrics_option
from panformer_cli.cli.evaluate.results import Outputs, output_options, show_results
from panformer_cli.cli.evaluate.routing import Subcommand
from panformer_cli.cli.options import Compute, cpu_processes_option

if TYPE_CHECKING:
    from panformer_cli.metrics.evaluator import MetricName


WITHOUT_SCORES = METRICS[:3]
"""Metrics of predictions on disk: box and mask AP need instances with scores."""


@click.command(cls=Subcommand)
@click.argument("predictions", metavar="PRED.json", type=PATH)
@click.option("--annotations", type=PATH, required=True, metavar="GT.json", help="Panoptic JSON of the ground truth.")
@click.option("--pred-folder", type=PATH, metavar="D", help="Folder of the predicted PNGs. [default: PRED/]")
@click.option("--gt-folder", type=PATH, metavar="D", help="Folder of the ground truth PNGs. [default: GT/]")
@metrics_option(WITHOUT_SCORES)
@bootstrap_option
@click.option("--out", "-o", type=PATH, metavar="DIR", help="Folder for the results. [default: print only]")
@output_options
@cpu_processes_option
def predictions(
    predictions: Path,
    annotations: Path,
    pred_folder: Path | None,
    gt_folder: Path | None,
    metrics: tuple[MetricName, ...],
    bootstrap: int,
    out: Path | None,
    outputs: Outputs,
    compute: Compute,
) -> None:
    """Evaluate predictions on disk, from any tool.

    PRED.json and GT.json are in COCO panoptic format. No model is run. Prints the same results as
    `panformer evaluate checkpoint`. `panformer evaluate --predictions PRED.json` is equivalent.

    \b
    panformer evaluate predictions PRED.json --annotations GT.json
    panformer evaluate predictions PRED.json --annotations GT.json --metrics all --report report/
    """
    from panformer_cli.engine.evaluation.evaluate_predictions import PredictionsRequest, evaluate_predictions

    if outputs.label_errors and out is None:
        raise click.UsageError("--label-errors writes a list and a page to the folder for the results: add --out DIR.")
    with compute.joined() as (process, reporter), process.temporary_folder() as temporary:
        request = PredictionsRequest(
            predictions,
            annotations,
            out or temporary,
            pred_folder,
            gt_folder,
            metrics=metrics,
            resamples=bootstrap,
            needs_scores=outputs.label_errors is not None,
        )
        process.on_first(lambda: outputs.check(request.out))
        results = evaluate_predictions(request, process, reporter)
        process.on_first(lambda: show_results(results, request.out, outputs, reporter))
        if out and not outputs.as_json:
            click.echo(f"Metrics: {out}")
