"""`panformer evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from panformer_cli.cli.figures import print_figures
from panformer_cli.cli.options import Compute, compute_options, speed_options

if TYPE_CHECKING:
    from panformer_cli.engine.evaluate import MetricName
    from panformer_cli.engine.precision import PrecisionChoice

METRICS: tuple[MetricName, ...] = ("panoptic", "bbox", "segm")


def _metrics(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[MetricName, ...]:
    """The names in `--metrics`, in the order of `METRICS`."""
    names = {name.strip() for name in value.split(",")}
    unknown = sorted(names.difference(METRICS))
    if unknown:
        text = ", ".join(repr(name) for name in unknown)
        raise click.BadParameter(f"unknown {text}: expected some of {','.join(METRICS)}.", ctx, parameter)
    return tuple(name for name in METRICS if name in names)


@click.command()
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), metavar="ROOT", help="Data set folder [that of training].")
@click.option("--split", metavar="S", help="Split, such as val2017 [that of training].")
@click.option("--metrics", default="panoptic", show_default=True, callback=_metrics, help="Of panoptic,bbox,segm.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the results.")
@speed_options
@compute_options
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def evaluate(
    checkpoint: Path | None,
    data: Path | None,
    split: str | None,
    metrics: tuple[MetricName, ...],
    out: Path | None,
    batch_size: int,
    precision: PrecisionChoice,
    compute: Compute,
    as_json: bool,
) -> None:
    """Measure PQ, SQ and RQ of CHECKPOINT, for all categories, things, stuff and each one.

    CHECKPOINT is a file, a run's folder or a published name; without it the newest run is taken.
    `--metrics panoptic,bbox,segm` adds box AP and mask AP of the things. The predictions are written as panoptic PNGs
    and JSON in COCO's form.

    \b
    panformer evaluate
    panformer evaluate best.safetensors --data /data/coco --split val2017
    panformer evaluate r50 --data /data/coco
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.engine.evaluate import EvaluateRequest
    from panformer_cli.engine.evaluate import evaluate as run_evaluation
    from panformer_cli.engine.runs import find_checkpoint, results_folder

    reporter = RichReporter()
    processes = compute.processes()
    found = find_checkpoint(checkpoint, reporter)
    folder = out or results_folder(found)
    request = EvaluateRequest(found, folder, data, split, metrics, processes, batch_size, precision)
    figures = run_evaluation(request, reporter)
    if as_json:
        click.echo(json.dumps(figures, indent=2))
        return
    print_figures(figures, per_class=True)
    click.echo(f"Predictions and figures: {folder}")
