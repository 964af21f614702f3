"""`panformer evaluate`, and what belongs to it: `compare`, `tune`, `check-submission`."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.evaluate.options import (
    METRICS,
    OFFLINE,
    Corruptions,
    Offline,
    Outputs,
    corruption_options,
    metrics_option,
    offline_options,
    output_options,
)
from panformer_cli.cli.options import (
    Compute,
    Submission,
    check_given,
    compute_options,
    speed_options,
    submission_options,
    write_submission,
)
from panformer_cli.cli.tables import print_causes, print_figures, print_robustness

if TYPE_CHECKING:
    from panformer_cli.engine.distributed.runtime import Process
    from panformer_cli.engine.evaluation.evaluate import EvaluateRequest
    from panformer_cli.metrics.evaluator import MetricName
    from panformer_cli.reporting import Reporter

ACTIONS = {"compare": "compare", "tune": "tune", "check-submission": "check_submission"}
"""Names that mean more than a checkpoint, and the module of this package with the command `action`."""

NEEDS_A_MODEL = "needs a model: leave it out with --predictions."


class WithActions(click.Command):
    """A command whose first argument may also name one of `ACTIONS`, imported when it does."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As click's, for the command that the arguments mean."""
        if args and args[0] in ACTIONS:
            action: click.Command = import_module(f"panformer_cli.cli.evaluate.{ACTIONS[args[0]]}").action
            return action.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command(cls=WithActions)
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), metavar="ROOT", help="Data set folder [that of training].")
@click.option("--split", metavar="S", help="Split, such as val2017 [that of training].")
@metrics_option
@click.option(
    "--bootstrap",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    metavar="N",
    help="Resamples for intervals; 0: none.",
)
@click.option("--resume", is_flag=True, help="Go on from what an interrupted evaluation left.")
@output_options
@submission_options
@offline_options
@corruption_options
@speed_options
@compute_options
def evaluate(
    checkpoint: Path | None,
    metrics: tuple[MetricName, ...],
    outputs: Outputs,
    offline: Offline | None,
    corruptions: Corruptions | None,
    submission: Submission | None,
    **how: Any,
) -> None:
    """Measure CHECKPOINT: PQ, SQ and RQ for all categories, things, stuff, each one and by size, and why.

    CHECKPOINT is a file, a run's folder or a published name; without it the newest run is taken. The predictions are
    written as panoptic PNGs and JSON in COCO's form. With --predictions and --annotations no model is run.

    \b
    panformer evaluate
    panformer evaluate r50 --data /data/coco --metrics all --report report/
    panformer evaluate --predictions PRED.json --annotations GT.json
    panformer evaluate best.safetensors --corruptions all --severity 1-5
    panformer evaluate compare A B
    panformer evaluate tune CHECKPOINT
    panformer evaluate check-submission FILE.zip --images INFO.json
    """
    if corruptions is not None:
        _check_surplus(
            {"--report": outputs.report, "--cross-check": outputs.cross_check, "--submission": submission},
            "belongs to an evaluation of the images as they are: leave it out with --corruptions.",
        )
    if offline is not None:
        _check_surplus(
            {
                "CHECKPOINT": checkpoint,
                "--corruptions": corruptions,
                "--submission": submission,
                **{f"--{name}": how[name] for name in ("data", "split", "resume")},
            },
            NEEDS_A_MODEL,
        )
        check_given(("batch_size", "precision", "fast", "device", "sampling"), NEEDS_A_MODEL)
        _evaluate_offline(offline, metrics, outputs, how["compute"], how["bootstrap"])
        return
    from panformer_cli.engine.evaluation.evaluate import EvaluateRequest
    from panformer_cli.engine.runs import find_checkpoint, results_folder

    compute: Compute = how["compute"]
    with compute.joined() as (process, reporter):
        found = process.on_first(lambda: find_checkpoint(checkpoint, reporter))
        request = EvaluateRequest(
            checkpoint=found,
            out=outputs.out or results_folder(found),
            data_root=how["data"],
            split=how["split"],
            metrics=metrics,
            batch_size=how["batch_size"],
            precision=how["precision"],
            resume=how["resume"],
            resamples=how["bootstrap"],
        )
        if corruptions is None:
            _evaluate_checkpoint(request, outputs, submission, process, reporter)
        else:
            _measure_robustness(request, corruptions, outputs, process, reporter)


def _evaluate_checkpoint(
    request: EvaluateRequest, outputs: Outputs, submission: Submission | None, process: Process, reporter: Reporter
) -> None:
    from panformer_cli.engine.evaluation.evaluate import evaluate as run_evaluation

    figures = run_evaluation(request, process, reporter)
    _finish(figures, request.out, outputs, process, reporter)
    if submission:
        process.on_first(lambda: write_submission(submission, request.out, reporter))
    if not outputs.as_json:
        click.echo(f"Predictions and figures: {request.out}")


def _check_surplus(given: dict[str, Any], why: str) -> None:
    surplus = [name for name, value in given.items() if value is not None and value is not False]
    if surplus:
        raise click.UsageError(f"{surplus[0]} {why}")


def _evaluate_offline(
    offline: Offline, metrics: tuple[MetricName, ...], outputs: Outputs, compute: Compute, bootstrap: int
) -> None:
    from panformer_cli.engine.evaluation.evaluate_predictions import PredictionsRequest, evaluate_predictions

    if metrics == METRICS:  # as `all` is
        metrics = OFFLINE
    if not set(metrics) <= set(OFFLINE):
        raise click.UsageError("bbox and segm need a model's instances: leave them out of --metrics.")
    with compute.joined() as (process, reporter), process.temporary_folder() as folder:
        request = PredictionsRequest(
            offline.predictions,
            offline.annotations,
            outputs.out or folder,
            offline.pred_folder,
            offline.gt_folder,
            metrics=metrics,
            resamples=bootstrap,
        )
        figures = evaluate_predictions(request, process, reporter)
        _finish(figures, request.out, outputs, process, reporter)
        if outputs.out and not outputs.as_json:
            click.echo(f"Figures: {outputs.out}")


def _finish(figures: dict[str, Any], folder: Path, outputs: Outputs, process: Process, reporter: Reporter) -> None:
    """What both ways of evaluating make of their figures."""
    from panformer_cli.engine.evaluation.evaluation_report import check_against_panopticapi, report_on

    if not process.is_first:
        return
    if outputs.cross_check:
        check_against_panopticapi(folder)
        reporter.message("panopticapi gives the same figures")
    page = report_on(folder, outputs.report, reporter) if outputs.report else None
    if outputs.as_json:
        click.echo(json.dumps(figures, indent=2))
        return
    print_figures(figures, per_class=True)
    print_causes(json.loads((folder / "analysis.json").read_text(encoding="utf-8")))
    if page:
        click.echo(f"Report: {page}")


def _measure_robustness(
    request: EvaluateRequest, corruptions: Corruptions, outputs: Outputs, process: Process, reporter: Reporter
) -> None:
    from panformer_cli.engine.evaluation.evaluate_robustness import RobustnessRequest, evaluate_robustness

    wanted = RobustnessRequest.parse(
        request, corruptions.names, corruptions.severity, corruptions.images, corruptions.seed
    )
    figures = evaluate_robustness(wanted, process, reporter)
    if outputs.as_json:
        click.echo(json.dumps(figures, indent=2))
    else:
        print_robustness(figures)
        click.echo(f"Figures: {request.out / 'robustness.json'}")
