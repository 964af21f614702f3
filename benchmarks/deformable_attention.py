"""Compare the implementations of deformable sampling on the CPU.

    python benchmarks/deformable_attention.py [--threads 2] [--rounds 11] [--json]

Sizes are those of an 800 x 1333 image: 22,223 tokens on four levels, 8 heads of 32 channels, 4 points per level. In the
encoder every token is a query that samples around itself, with a standard deviation of three cells. In the location
decoder 300 queries sample around random locations. In bf16 only the values are bf16; locations and weights stay fp32,
as in the model.

The implementations alternate in every round, so that a busy machine slows all of them equally. A time is the median
over the rounds. The speedup is the median over the rounds of the portable time divided by the implementation's. The
first round is a warm-up and not counted. The first call, which imports and compiles, is reported separately.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numba
import torch
from torch import Tensor

from panformer_cli.models.layers.common import LevelShapes
from panformer_cli.models.layers.sampling import DeformableSampling
from panformer_cli.models.layers.sampling.cpu import cpu_sampling
from panformer_cli.models.layers.sampling.portable import gather_sampling, grid_sampling

SHAPES: LevelShapes = [(100, 167), (50, 84), (25, 42), (13, 21)]
TOKENS = sum(height * width for height, width in SHAPES)
HEADS, CHANNELS, POINTS = 8, 32, 4
QUERIES = {"encoder": TOKENS, "decoder": 300}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SAMPLINGS: dict[str, DeformableSampling] = {"portable": grid_sampling, "gather": gather_sampling, "cpu": cpu_sampling}

Inputs = tuple[Tensor, LevelShapes, Tensor, Tensor]
Step = Callable[[DeformableSampling, Inputs], None]


@dataclass(frozen=True)
class Result:
    """A row of the table; `times_as_fast` is the speedup over the portable implementation in the same rounds."""

    place: str
    dtype: str
    step: str
    sampling: str
    ms: float
    least_ms: float
    times_as_fast: float


def main() -> None:
    """Print the table or JSON."""
    parser = argparse.ArgumentParser(description="Compare the implementations of deformable sampling on the CPU.")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="number of threads [PyTorch's default]"
    )
    parser.add_argument("--rounds", type=int, default=11, help="measured rounds per setting [11]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    about: dict[str, Any] = {"torch": torch.__version__, "numba": numba.__version__, "threads": options.threads}
    about |= {"cpu": cpu_name(), "first_call_s": first_call(), "rounds": options.rounds}
    results = [
        result
        for place, dtype, step in itertools.product(QUERIES, DTYPES, STEPS)
        for result in compare(place, dtype, step, options.rounds)
    ]
    if options.json:
        print(json.dumps({**about, "results": [asdict(result) for result in results]}, indent=2))
    else:
        print(table(about, results))


def cpu_name() -> str:
    """Return the name of the CPU from /proc/cpuinfo, or else from Python."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def first_call() -> float:
    """Return the seconds of the first forward and backward pass of the compiled loops."""
    begin = time.perf_counter()
    train(cpu_sampling, random_inputs("decoder", "fp32"))
    return time.perf_counter() - begin


def random_inputs(place: str, dtype: str) -> Inputs:
    """Return values, shapes, locations and weights of one image."""
    queries = QUERIES[place]
    values = torch.randn(1, TOKENS, HEADS, CHANNELS).to(DTYPES[dtype])
    centers = cell_centers() if place == "encoder" else torch.rand(queries, 2)
    cells = torch.tensor([(width, height) for height, width in SHAPES])[:, None]  # (levels, 1, 2)
    offsets = 3 * torch.randn(1, queries, HEADS, len(SHAPES), POINTS, 2) / cells
    weights = torch.randn(1, queries, HEADS, len(SHAPES) * POINTS).softmax(-1).unflatten(-1, (len(SHAPES), POINTS))
    return values, SHAPES, centers[None, :, None, None, None] + offsets, weights


def cell_centers() -> Tensor:
    """Return (TOKENS, 2), x and y in 0..1."""
    centers = []
    for height, width in SHAPES:
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        centers.append(torch.stack([x, y], -1).flatten(0, 1))
    return torch.cat(centers)


def infer(sampling: DeformableSampling, inputs: Inputs) -> None:
    """Run the forward pass as at inference."""
    with torch.inference_mode():
        sampling(*inputs)


def train(sampling: DeformableSampling, inputs: Inputs) -> None:
    """Run the forward and the backward pass, with all three gradients."""
    values, shapes, *others = inputs
    values, locations, weights = (tensor.detach().requires_grad_() for tensor in (values, *others))
    output = sampling(values, shapes, locations, weights)
    output.backward(torch.ones_like(output))


STEPS: dict[str, Step] = {"forward": infer, "forward + backward": train}


def compare(place: str, dtype: str, step: str, rounds: int) -> list[Result]:
    """Measure all implementations, interleaved."""
    inputs = random_inputs(place, dtype)
    seconds: dict[str, list[float]] = {name: [] for name in SAMPLINGS}
    for _ in range(1 + rounds):
        for name, sampling in SAMPLINGS.items():
            begin = time.perf_counter()
            STEPS[step](sampling, inputs)
            seconds[name].append(time.perf_counter() - begin)
    counted = {name: times[1:] for name, times in seconds.items()}
    return [
        Result(
            *(place, dtype, step, name),
            ms=1e3 * statistics.median(times),
            least_ms=1e3 * min(times),
            times_as_fast=statistics.median(a / b for a, b in zip(counted["portable"], times, strict=True)),
        )
        for name, times in counted.items()
    ]


def table(about: dict[str, Any], results: list[Result]) -> str:
    """Return the table of the results, with a description of the environment."""
    lines = [
        "{cpu}, {threads} threads, torch {torch}, numba {numba}, {rounds} rounds".format(**about),
        "first call of the compiled loops, forward and backward: {first_call_s:.2f} s".format(**about),
        f"{'place':10}{'dtype':7}{'step':20}{'sampling':10}{'ms':>9}{'min':>9}{'speedup':>15}",
    ]
    for result in results:
        names = f"{result.place:10}{result.dtype:7}{result.step:20}{result.sampling:10}"
        lines.append(f"{names}{result.ms:9.2f}{result.least_ms:9.2f}{result.times_as_fast:15.1f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
