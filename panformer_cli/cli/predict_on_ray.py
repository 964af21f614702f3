"""The part of `panformer predict` that is about a Ray cluster."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.wording import counted

if TYPE_CHECKING:
    from panformer_cli.cli.options import Compute
    from panformer_cli.engine.on_ray.options import RayOptions
    from panformer_cli.engine.on_ray.predict import RayResult
    from panformer_cli.engine.outputs.options import OutputOptions
    from panformer_cli.engine.predict import PredictRequest


def ray_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--engine` and the options of actors; the function receives `ray`, a `RayOptions`, or None without Ray."""

    @click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        help="ray predicts on a Ray cluster and writes Parquet files, DIR/predictions/*.parquet. [default: local]",
    )
    @click.option("--actors", type=click.IntRange(min=1), metavar="N", help="With Ray, number of actors.")
    @click.option("--actor-cpus", type=click.IntRange(min=1), metavar="N", help="With Ray, CPU threads of an actor.")
    @click.option(
        "--actor-gpus",
        type=click.FloatRange(0, 1, min_open=True),
        metavar="SHARE",
        help="With Ray, share of a GPU for an actor, such as 0.5. [default: 1 if the cluster has GPUs]",
    )
    @click.option(
        "--block-size",
        type=click.IntRange(min=1),
        metavar="N",
        help="With Ray, number of images per Parquet file. [default: 64]",
    )
    @functools.wraps(function)
    def with_ray(
        engine: str,
        actors: int | None,
        actor_cpus: int | None,
        actor_gpus: float | None,
        block_size: int | None,
        **others: Any,
    ) -> Any:
        given = {"actors": actors, "actor-cpus": actor_cpus, "actor-gpus": actor_gpus, "block-size": block_size}
        if engine == "local":
            if names := [f"--{name}" for name, value in given.items() if value is not None]:
                raise click.UsageError(f"{' and '.join(names)} only apply with --engine ray: add it.")
            return function(ray=None, **others)
        from panformer_cli.engine.on_ray.options import BLOCK_SIZE, RayOptions

        return function(ray=RayOptions(actors, actor_cpus, actor_gpus, block_size or BLOCK_SIZE), **others)

    return with_ray


def ray_output(output: OutputOptions) -> OutputOptions:
    """Return what is written; without `--save`, the columns `panoptic` and `segments`.

    Raises:
        PanformerError: `--save` has an output that cannot be a column.
    """
    from panformer_cli.engine.on_ray.options import USUAL, check_outputs

    if click.get_current_context().get_parameter_source("save") == click.core.ParameterSource.DEFAULT:
        return replace(output, save=USUAL)
    check_outputs(output.save)
    return output


def check_ray(compute: Compute, has_others: bool) -> None:
    """Check what can be checked before the images are listed.

    Args:
        compute: What the command runs on.
        has_others: Whether there are videos, `--gallery` or `--submission`.

    Raises:
        UsageError: Another option needs the engine of this machine.
        PanformerError: Ray is not installed.
    """
    from panformer_cli.engine.on_ray.cluster import check_installed

    if has_others:
        raise click.UsageError("--engine ray predicts images, without --gallery and --submission: leave them out.")
    if compute.gpus is not None or compute.cpu_processes is not None:
        raise click.UsageError("--gpus and --cpu-processes do not apply to --engine ray: use --actors.")
    check_installed()


def run_on_ray(request: PredictRequest, options: RayOptions, compute: Compute, as_json: bool) -> int:
    """Predict on a Ray cluster, print the result, and return the exit code."""
    from panformer_cli.console import RichReporter
    from panformer_cli.engine.on_ray.predict import predict_on_ray

    options = replace(options, device=compute.device or "auto")
    result = predict_on_ray(request, options, RichReporter(), compute.sampling)
    if as_json:
        click.echo(json.dumps(_content(result), indent=2))
    else:
        done = counted(result.images - len(result.failures), "image")
        click.echo(f"{done} segmented, {len(result.failures)} failed; results: {result.folder}")
    return 1 if result.failures else 0


def _content(result: RayResult) -> dict[str, Any]:
    """Return what `--json` prints."""
    failures = [failure["problem"] for failure in result.failures]
    return {"folder": str(result.folder), "images": result.images, "failures": failures}
