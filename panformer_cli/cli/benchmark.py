"""`panformer benchmark`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from panformer_cli.engine.benchmarking.benchmark import Benchmark
    from panformer_cli.engine.benchmarking.passes import Figures


@click.command()
@click.argument("model", metavar="RECIPE|CHECKPOINT")
@click.option("--size", default="800x1333", show_default=True, metavar="HxW", help="The network's input, pixels.")
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Images in one forward pass."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Of the network; fp16 needs a GPU.",
)
@click.option("--device", default="auto", metavar="D", help="cpu, cuda or cuda:1; by default the GPU if there is one.")
@click.option(
    "--repeat", type=click.IntRange(min=1), default=5, show_default=True, metavar="N", help="Passes of each kind."
)
@click.option(
    "--sampling",
    type=click.Choice(["auto", "portable", "gather", "cpu", "triton"]),
    default="auto",
    help="Force an implementation of deformable attention; auto takes the fastest.",
)
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A picture to use: it is fitted into --size, its results have its own size [a generated one of that size].",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def benchmark(model: str, size: str, as_json: bool, **options: Any) -> None:
    """Measure how long a model takes for an image, from the file to the results, stage by stage.

    A recipe, by name or YAML file, gets random weights, and nothing is downloaded: r50 is the recipe, also where
    published weights have that name; for those give their file. A checkpoint is a file or a run's folder.

    Freshly initialised, a model finds nothing. So the last layers of random weights are scaled until about as many
    candidates pass the score threshold as in a photograph. Their masks are noise, and most lose against
    another: the number of segments is told. With trained weights merging and writing take more or less than that.

    After a warm-up, two kinds of passes take turns. The totals come from passes in which the clock is read only at the
    ends of pass and network, the stages from passes in which it is read at every stage. Times are for the whole batch.
    GFLOP counts matrix products, convolutions, attention and deformable sampling, two operations for a
    multiplication and an addition; "% of limit" compares with the rate of a matrix product that is measured in between.
    The number of threads is that of OMP_NUM_THREADS, where it is set.

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
    columns = ["stage", "median ms", "least ms", "quartiles ms", "% of total", "GFLOP", "% of limit"]
    whole = sum(figures.ms.median for figures in result.stages.values())
    rows = [_row(name.replace("_", " "), figures, whole) for name, figures in result.stages.items()]
    rows.append(_row("network alone", result.network, result.total.ms.median))
    rows.append(_row("file to result", result.total, result.total.ms.median))
    print_table(title, columns, rows)
    peak = "not known here" if result.peak_memory_mib is None else f"{result.peak_memory_mib:.0f} MiB"
    matrices = " x ".join(map(str, result.matrix_size))
    for line in (
        f"{result.ms_per_image:.1f} ms an image, {result.images_per_second:.2f} images/s, "
        f"{result.segments:.1f} segments an image of {result.picture_size[0]}x{result.picture_size[1]}",
        f"{result.parameters / 1e6:.1f} M parameters; peak memory {peak} ({result.peak_memory_kind})",
        f"limit: {result.matrix_gflops:.0f} GFLOP/s, a {request.precision} matrix product of {matrices}",
        f"{environment['device']} ({environment['device_name']}), {environment['threads']} threads, "
        f"torch {environment['torch']}, panformer {environment['panformer']}",
    ):
        click.echo(line)


def _row(label: str, figures: Figures, whole: float) -> list[str | float | None]:
    ms = figures.ms
    gflop = None if figures.gflop is None else f"{figures.gflop:.2f}"
    share = None if figures.limit_share is None else 100 * figures.limit_share
    quartiles = f"{ms.lower_quartile:.1f} to {ms.upper_quartile:.1f}"
    return [label, ms.median, ms.least, quartiles, 100 * ms.median / whole, gflop, share]
