"""`panformer benchmark`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.network_options import mask_layers_option
from panformer_cli.cli.options import json_option
from panformer_cli.wording import counted

if TYPE_CHECKING:
    from panformer_cli.engine.benchmarking.benchmark import Benchmark
    from panformer_cli.engine.benchmarking.passes import Figures


@click.command()
@click.argument("model", metavar="RECIPE|CHECKPOINT")
@click.option("--size", default="800x1333", show_default=True, metavar="HxW", help="Size of the network input, pixels.")
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Images per forward pass."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Precision of the network; fp16 needs a GPU.",
)
@click.option(
    "--device", default="auto", metavar="D", help="cpu, cuda, cuda:N or mps. [default: the GPU if there is one]"
)
@click.option(
    "--repeat", type=click.IntRange(min=1), default=5, show_default=True, metavar="N", help="Timed passes of each kind."
)
@click.option(
    "--sampling",
    type=click.Choice(["auto", "portable", "gather", "cpu", "triton"]),
    default="auto",
    help="Implementation of deformable attention; auto picks the fastest. [default: auto]",
)
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Image to use; it is resized to --size, and results have its original size. [default: a generated image]",
)
@mask_layers_option
@json_option
def benchmark(model: str, size: str, as_json: bool, **options: Any) -> None:
    """Measure the speed and memory of a model from image file to results, stage by stage.

    A RECIPE, a name or a YAML file, gets random weights; nothing is downloaded. r50 always means the recipe: to
    benchmark published weights, give their file. A CHECKPOINT is a file, a run folder, or a model that transformers
    saved, hf:OWNER/NAME or hf:FOLDER.

    A newly initialized model detects nothing. Therefore, the last layers of random weights are scaled until about as
    many candidates pass the score threshold as in a photo. Their masks are noise, and most are discarded; the number of
    segments is printed. Trained weights change the time of merging and writing.

    After a warm-up, two kinds of passes are interleaved: one is timed only as a whole, the other at every stage. The
    totals are from the first kind. Times are for the whole batch. GFLOP counts matrix products, convolutions, attention
    and deformable sampling; a multiplication and an addition are two operations. "% of limit" is the share of the rate
    of a large matrix product, measured between the passes. OMP_NUM_THREADS sets the number of threads.

    \b
    panformer benchmark r50
    panformer benchmark r50 --size 512x512 --precision bf16 --json
    panformer benchmark best.safetensors --image photo.jpg --device cuda
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.engine.benchmarking.benchmark import BenchmarkRequest, parse_size
    from panformer_cli.engine.benchmarking.benchmark import benchmark as run_benchmark

    result = run_benchmark(BenchmarkRequest(model, parse_size(size), **options), RichReporter())
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        _print(result)


def _print(result: Benchmark) -> None:
    from panformer_cli.console import print_table

    request, environment = result.request, result.environment
    height, width = result.input_size
    weights = "random weights" if result.weights == "random" else result.weights
    title = f"{request.model}, {weights}: {height}x{width}, batch {request.batch}, {request.precision}"
    columns = ["stage", "median ms", "min ms", "quartiles ms", "% of total", "GFLOP", "% of limit"]
    whole = sum(timing.ms.median for timing in result.stages.values())
    rows = [_row(name.replace("_", " "), timing, whole) for name, timing in result.stages.items()]
    rows.append(_row("network alone", result.network, result.total.ms.median))
    rows.append(_row("file to result", result.total, result.total.ms.median))
    print_table(title, columns, rows)
    peak = "unknown" if result.peak_memory_mib is None else f"{result.peak_memory_mib:.0f} MiB"
    matrices = " x ".join(map(str, result.matrix_size))
    for line in (
        f"{result.ms_per_image:.1f} ms per image, {result.images_per_second:.2f} images/s, "
        f"{result.segments:.1f} segments per image of {result.picture_size[0]}x{result.picture_size[1]}",
        f"{result.parameters / 1e6:.1f} M parameters; peak memory {peak} ({result.peak_memory_kind})",
        f"limit: {result.matrix_gflops:.0f} GFLOP/s, a {request.precision} matrix product of {matrices}",
        f"{environment['device']} ({environment['device_name']}), {counted(environment['threads'], 'thread')}, "
        f"torch {environment['torch']}, panformer {environment['panformer']}",
    ):
        click.echo(line)


def _row(label: str, timing: Figures, whole: float) -> list[str | float | None]:
    ms = timing.ms
    gflop = None if timing.gflop is None else f"{timing.gflop:.2f}"
    share = None if timing.limit_share is None else 100 * timing.limit_share
    quartiles = f"{ms.lower_quartile:.1f} to {ms.upper_quartile:.1f}"
    return [label, ms.median, ms.least, quartiles, 100 * ms.median / whole, gflop, share]
