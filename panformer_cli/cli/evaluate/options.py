"""Options of `panformer evaluate`, in groups."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.options import check_given

if TYPE_CHECKING:
    from panformer_cli.metrics.evaluator import MetricName

METRICS: tuple[MetricName, ...] = ("panoptic", "boundary", "semantic", "bbox", "segm")
OFFLINE = METRICS[:3]
"""What can be told from predictions on disk, which have no instances with scores."""
PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class Offline:
    """Predictions on disk and their ground truth; folders None: beside the JSONs."""

    predictions: Path
    annotations: Path
    pred_folder: Path | None
    gt_folder: Path | None


@dataclass(frozen=True)
class Outputs:
    """What to make of the figures besides printing them."""

    out: Path | None
    report: Path | None
    cross_check: bool
    as_json: bool


@dataclass(frozen=True)
class Corruptions:
    """Which corruptions to measure, as written: `all` or names; a severity or a range."""

    names: str
    severity: str
    images: int | None
    seed: int


def metrics_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--metrics`; the function gets a tuple of names."""
    return click.option(
        "--metrics",
        default="panoptic,semantic",
        show_default=True,
        callback=_metrics,
        help=f"Of {','.join(METRICS)}; or all that can be measured.",
    )(function)


def _metrics(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[MetricName, ...]:
    """The names in `--metrics`, in the order of `METRICS`."""
    names = {name.strip() for name in value.split(",")}
    if names == {"all"}:
        return METRICS
    unknown = sorted(names.difference(METRICS))
    if unknown:
        text = ", ".join(repr(name) for name in unknown)
        raise click.BadParameter(f"unknown {text}: expected all or some of {','.join(METRICS)}.", ctx, parameter)
    return tuple(name for name in METRICS if name in names)


def offline_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of predictions on disk; the function gets `offline`, an `Offline` or None."""

    @click.option("--predictions", type=PATH, metavar="PRED.json", help="Count predictions on disk; no model is run.")
    @click.option("--annotations", type=PATH, metavar="GT.json", help="The ground truth of --predictions.")
    @click.option("--pred-folder", type=PATH, metavar="D", help="PNGs of the predictions [PRED.json without .json].")
    @click.option("--gt-folder", type=PATH, metavar="D", help="PNGs of the ground truth [GT.json without .json].")
    @functools.wraps(function)
    def with_offline(
        predictions: Path | None,
        annotations: Path | None,
        pred_folder: Path | None,
        gt_folder: Path | None,
        **others: Any,
    ) -> Any:
        if (predictions is None) != (annotations is None):
            raise click.UsageError("--predictions and --annotations belong together: give both.")
        if predictions is None and (pred_folder or gt_folder):
            raise click.UsageError("--pred-folder and --gt-folder belong to --predictions and --annotations.")
        pair = predictions and annotations and Offline(predictions, annotations, pred_folder, gt_folder)
        return function(offline=pair or None, **others)

    return with_offline


def output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what is made of the figures; the function gets `outputs`, an `Outputs`."""

    @click.option("--out", type=PATH, metavar="DIR", help="Folder of the results.")
    @click.option("--report", type=PATH, metavar="DIR", help="Write a page with all figures and the telling images.")
    @click.option("--cross-check", is_flag=True, help="Run panopticapi as well, and fail where it differs.")
    @click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
    @functools.wraps(function)
    def with_outputs(
        out: Path | None,
        report: Path | None,
        cross_check: bool,
        as_json: bool,
        **others: Any,
    ) -> Any:
        if report is not None and report.exists() and not report.is_dir():
            raise click.BadParameter(f"{report} is a file; expected a folder, new or not.", param_hint="'--report'")
        if cross_check:
            from panformer_cli.metrics.cross_check import panopticapi

            panopticapi()  # told before an hour of evaluation, not after
        return function(outputs=Outputs(out, report, cross_check, as_json), **others)

    return with_outputs


def corruption_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of robustness; the function gets `corruptions`, a `Corruptions` or None."""

    @click.option("--corruptions", "names", metavar="all|LIST", help="PQ on corrupted images: all, or fog,snow,...")
    @click.option(
        "--severity", default="1-5", show_default=True, metavar="S", help="Of the corruptions: 3, 1-5 or 1,3."
    )
    @click.option("--images", type=click.IntRange(min=1), metavar="N", help="Corrupt N images drawn by --seed [all].")
    @click.option("--seed", default=0, show_default=True, metavar="N", help="Of the images drawn and the corruptions.")
    @functools.wraps(function)
    def with_corruptions(names: str | None, severity: str, images: int | None, seed: int, **others: Any) -> Any:
        if names is not None:
            return function(corruptions=Corruptions(names, severity, images, seed), **others)
        check_given(("severity", "images", "seed"), "belongs to --corruptions: give both, or neither.")
        return function(corruptions=None, **others)

    return with_corruptions
