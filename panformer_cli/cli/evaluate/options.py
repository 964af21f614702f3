"""Options shared by several subcommands of `panformer evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.option_group import option_group
from panformer_cli.cli.options import Compute, Speed, announcer, compute_options, speed_options
from panformer_cli.cli.saved_model_options import SavedModelOptions, saved_model_options

if TYPE_CHECKING:
    from panformer_cli.engine.distributed.runtime import Process
    from panformer_cli.engine.evaluation.evaluate import EvaluateRequest
    from panformer_cli.metrics.evaluator import MetricName
    from panformer_cli.reporting import Reporter

METRICS: tuple[MetricName, ...] = ("panoptic", "boundary", "semantic", "bbox", "segm")
PATH = click.Path(path_type=Path)

bootstrap_option = click.option(
    "--bootstrap",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    metavar="N",
    help="Resamples for the 95 % confidence intervals; 0 computes none.",
)
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Random seed."
)


@dataclass(frozen=True)
class ModelOptions:
    """The model, its images, and how to run it.

    Attributes:
        checkpoint: File, run folder or name of published weights; None for the newest run.
        data: Data set folder; None for the one used for training.
        split: Split of the data set; None for the validation split used for training.
        speed: Batch size and precision.
        saved_model: Sides of the input, and what is for models that transformers saved.
        compute: Devices and processes.
    """

    checkpoint: Path | None
    data: Path | None
    split: str | None
    speed: Speed
    saved_model: SavedModelOptions
    compute: Compute

    def request(self, out: Path | None, as_json: bool, process: Process, reporter: Reporter) -> EvaluateRequest:
        """Print the checkpoint and return its evaluation into `out`; published weights are downloaded if needed.

        Args:
            out: Folder for the results; None for the default of the checkpoint.
            as_json: Whether the results are printed as JSON.
            process: This process; rank 0 downloads.
            reporter: Receives the progress of the download.

        Raises:
            CheckpointError: The checkpoint does not exist.
            PanformerError: The download fails.
        """
        from panformer_cli.engine.evaluation.evaluate import EvaluateRequest
        from panformer_cli.engine.inference_changes import InferenceChanges
        from panformer_cli.engine.runs import find_checkpoint, results_folder

        announce, own = announcer(as_json, reporter), self.saved_model
        changes = InferenceChanges().with_saved_model(
            own.short_side, own.long_side, own.label_map, hf_post_processing=own.hf_post_processing
        )
        found = process.on_first(lambda: find_checkpoint(self.checkpoint, reporter, announce=announce))
        return EvaluateRequest(
            checkpoint=found,
            out=out or results_folder(found),
            data_root=self.data,
            split=self.split,
            batch_size=self.speed.batch_size,
            precision=self.speed.precision,
            changes=changes,
        )


@option_group(
    "model",
    click.argument("checkpoint", required=False, type=PATH),
    click.option("--data", type=PATH, metavar="ROOT", help="Data set folder. [default: the one used for training]"),
    click.option(
        "--split", metavar="S", help="Split, such as val2017. [default: the validation split, as in training]"
    ),
    speed_options,
    saved_model_options,
    compute_options,
)
def model_options(
    checkpoint: Path | None,
    data: Path | None,
    split: str | None,
    speed: Speed,
    saved_model: SavedModelOptions,
    compute: Compute,
) -> ModelOptions:
    """Add CHECKPOINT and the options for running it; the command receives `model`."""
    return ModelOptions(checkpoint, data, split, speed, saved_model, compute)


def metrics_option(offered: tuple[MetricName, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds `--metrics`; the function receives a tuple of names, in the order of `offered`."""

    def parse(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[MetricName, ...]:
        names = {name.strip() for name in value.split(",")}
        if names == {"all"}:
            return offered
        unknown = sorted(names.difference(offered))
        if unknown:
            text = ", ".join(repr(name) for name in unknown)
            reason = " (AP needs the instance scores of a model)" if set(unknown) <= set(METRICS) else ""
            message = f"unknown {text}: expected all or some of {','.join(offered)}{reason}."
            raise click.BadParameter(message, ctx, parameter)
        return tuple(name for name in offered if name in names)

    return click.option(
        "--metrics",
        default="panoptic,semantic",
        show_default=True,
        callback=parse,
        metavar="LIST",
        help=f"Metrics to compute: all, or some of {','.join(offered)}.",
    )
