"""The part of `panformer predict` that is about a Ray cluster."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.predict.images import image_request
from panformer_cli.cli.predict.options import is_default
from panformer_cli.wording import counted

if TYPE_CHECKING:
    from panformer_cli.cli.predict.options import PredictOptions
    from panformer_cli.engine.inputs.find import InputImages
    from panformer_cli.engine.on_ray.options import RayOptions
    from panformer_cli.engine.on_ray.predict import RayResult
    from panformer_cli.engine.outputs.options import OutputOptions


def check_ray(options: PredictOptions) -> None:
    """Check what can be checked before the images are listed.

    Raises:
        UsageError: Another option needs the engine of this machine.
        PanformerError: Ray is not installed, or `--save` has an output that cannot be a column.
    """
    from panformer_cli.engine.on_ray.cluster import check_installed

    if options.results.submission or options.results.output.gallery:
        raise click.UsageError("--engine ray predicts images, without --gallery and --submission: leave them out.")
    if options.compute.gpus is not None or options.compute.cpu_processes is not None:
        raise click.UsageError("--gpus and --cpu-processes do not apply to --engine ray: use --actors.")
    check_installed()
    _ray_output(options.results.output)


def run_on_ray(options: PredictOptions, ray: RayOptions, images: InputImages, checkpoint: Path) -> int:
    """Predict on a Ray cluster, print the result, and return the exit code; errors as `check_ray`."""
    from panformer_cli.console import RichReporter
    from panformer_cli.engine.on_ray.predict import predict_on_ray

    request = image_request(options, images, checkpoint, _ray_output(options.results.output))
    ray = replace(ray, device=options.compute.device or "auto")
    result = predict_on_ray(request, ray, RichReporter(), options.compute.sampling)
    if options.results.as_json:
        click.echo(json.dumps(_content(result), indent=2))
    else:
        done = counted(result.images - len(result.failures), "image")
        click.echo(f"{done} segmented, {len(result.failures)} failed; results: {result.folder}")
    return 1 if result.failures else 0


def _ray_output(output: OutputOptions) -> OutputOptions:
    """Return what is written; without `--save`, the columns `panoptic` and `segments`."""
    from panformer_cli.engine.on_ray.options import USUAL, check_outputs

    if is_default("save"):
        return replace(output, save=USUAL)
    check_outputs(output.save)
    return output


def _content(result: RayResult) -> dict[str, Any]:
    """Return what `--json` prints."""
    failures = [failure["problem"] for failure in result.failures]
    return {"folder": str(result.folder), "images": result.images, "failures": failures}
