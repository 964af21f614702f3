"""Compare the Triton kernels of deformable attention with `grid_sample` on a GPU.

    python benchmarks/deformable_attention_gpu.py [--json] [--sweep]

Needs an NVIDIA GPU of compute capability 8.0 or higher (9.0 adds 16-byte gradient atomics), the package triton, a C
compiler (triton builds its launcher with it) and 24 GiB of GPU memory, nearly all of it for `grid_sample` at batch 8.

Sizes are those of an 800 x 1333 image: 22,223 tokens on four levels, 8 heads of 32 channels, 4 points per level. In the
encoder every token is a query that samples around itself; in the decoder 300 queries sample points of random boxes.

A time is the median of single runs between CUDA events. The GPU is kept busy while a run is enqueued, so CPU time is
not included, and the runs cycle through several sets of inputs, so that these are not in the L2 cache. GB/s is the
minimum traffic (every input read once, every output written once) divided by the time; "gathered" counts every corner
of every sample, most of which hit the caches. The rate of a plain copy is shown for comparison. In bf16 and fp16 only
the values have this type; locations and weights stay float32, as in the model.

`--sweep` times the Triton kernels of the encoder with launch settings other than those in
`models/layers/sampling/triton.py`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from panformer_cli.models.layers.common import LevelShapes
from panformer_cli.models.layers.sampling import DeformableSampling, triton
from panformer_cli.models.layers.sampling.portable import grid_sampling
from panformer_cli.models.layers.sampling.triton import triton_sampling

SHAPES: LevelShapes = [(100, 167), (50, 84), (25, 42), (13, 21)]
TOKENS = sum(height * width for height, width in SHAPES)
HEADS, DIM, POINTS, DECODER_QUERIES = 8, 32, 4, 300
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WARM_UP, RUNS = 10, 50
BEYOND_CACHE = 256 * 2**20
"""Total bytes of the input sets that the runs cycle through; L2 caches have 40 to 130 MiB."""
BUSY_CYCLES = 10_000_000
"""About 5 ms: longer than it takes the CPU to enqueue one run."""

Inputs = tuple[Tensor, LevelShapes, Tensor, Tensor]


@dataclass(frozen=True)
class Size:
    """Where in the model the attention is, and the batch size."""

    place: Literal["encoder", "decoder"]
    batch: int

    @property
    def queries(self) -> int:
        """Number of queries per image."""
        return TOKENS if self.place == "encoder" else DECODER_QUERIES


SIZES = [Size("encoder", 1), Size("encoder", 8), Size("decoder", 1), Size("decoder", 8)]


@dataclass(frozen=True)
class Result:
    """A row of the table; rates in GB/s."""

    kernel: str
    place: str
    batch: int
    dtype: str
    step: str
    ms: float
    least_rate: float
    gathered_rate: float


def main() -> int:
    """Print each result as it is measured; return 2 if there is no suitable GPU."""
    parser = argparse.ArgumentParser(description="Compare Triton and grid_sample for deformable attention on a GPU.")
    parser.add_argument("--json", action="store_true", help="print JSON, one object per line")
    parser.add_argument("--sweep", action="store_true", help="try launch settings of the Triton kernels instead")
    options = parser.parse_args()
    obstacle = triton.obstacle()
    if obstacle:
        print(f"This benchmark needs a GPU and a working triton, but {obstacle}.", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    about: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    about |= {"largest_difference": difference(), "copy_rate": copy_rate()}
    show = json.dumps if options.json else as_text
    print(show(about), flush=True)
    for result in sweep() if options.sweep else compare():
        print(show(asdict(result)), flush=True)
    return 0


def difference() -> float:
    """Return the largest fp32 difference between the two outputs in the encoder, relative to the largest value."""
    inputs = random_inputs(SIZES[0], torch.float32)
    with torch.inference_mode():
        ours, portable = triton_sampling(*inputs), grid_sampling(*inputs)
    return float((ours - portable).abs().max() / portable.abs().max())


def copy_rate() -> float:
    """Return the GB/s that a copy within GPU memory reads and writes."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / median_ms(lambda number: target.copy_(source)) / 1e6


def compare() -> Iterator[Result]:
    """Measure both implementations at all sizes."""
    for size, dtype in itertools.product(SIZES, DTYPES):
        yield from measure("triton", triton_sampling, size, dtype)
        yield from measure("grid_sample", grid_sampling, size, dtype)


def sweep() -> Iterator[Result]:
    """Measure other launch settings for the encoder."""
    triton.ENOUGH_PROGRAMS = 1
    for elements, queries, dtype in itertools.product((128, 256, 512), (1, 2, 4, 8, 16, 32), DTYPES):
        triton.FORWARD_ELEMENTS = triton.BACKWARD_ELEMENTS = elements
        triton.QUERIES_PER_PROGRAM = queries
        yield from measure(f"{elements} x {queries}", triton_sampling, SIZES[0], dtype)


def measure(kernel: str, sampling: DeformableSampling, size: Size, dtype: str) -> Iterator[Result]:
    """Measure the forward and the backward pass of one implementation."""
    first = random_inputs(size, DTYPES[dtype])
    copies = max(1, math.ceil(BEYOND_CACHE / least_bytes(first)[0]))
    sets = [first, *(random_inputs(size, DTYPES[dtype]) for _ in range(copies - 1))]

    def forward(number: int) -> None:
        sampling(*sets[number % copies])

    with torch.inference_mode():
        times = {"forward": median_ms(forward)}
    outputs = [sampling(*inputs) for inputs in sets]
    direction = torch.randn_like(outputs[0])

    def backward(number: int) -> None:
        values, _, locations, weights = sets[number % copies]
        torch.autograd.grad(outputs[number % copies], (values, locations, weights), direction, retain_graph=True)

    times["backward"] = median_ms(backward)
    corners = 4 * size.batch * size.queries * HEADS * len(SHAPES) * POINTS * DIM
    gathered = (corners * first[0].element_size(), corners * (first[0].element_size() + 4))
    for (step, ms), least, gather in zip(times.items(), least_bytes(first), gathered, strict=True):
        yield Result(kernel, size.place, size.batch, dtype, step, ms, least / ms / 1e6, gather / ms / 1e6)


def median_ms(run: Callable[[int], object]) -> float:
    """Return the median milliseconds of single runs on the GPU; `run` gets the number of the run."""
    for number in range(WARM_UP):
        run(number)
    events = []
    for number in range(RUNS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(BUSY_CYCLES)
        start.record()
        run(number)
        end.record()
        events.append((start, end))
    torch.cuda.synchronize()
    return float(statistics.median(start.elapsed_time(end) for start, end in events))


def random_inputs(size: Size, dtype: torch.dtype) -> Inputs:
    """Return inputs as in the model, on the GPU, all with gradients."""
    values = torch.randn(size.batch, TOKENS, HEADS, DIM, device="cuda")
    shape = (size.batch, size.queries, HEADS, len(SHAPES), POINTS)
    weights = torch.randn(*shape[:-2], len(SHAPES) * POINTS, device="cuda").softmax(-1).view(shape)
    locations = encoder_locations(shape) if size.place == "encoder" else decoder_locations(shape)
    values, locations, weights = (leaf.requires_grad_() for leaf in (values.to(dtype), locations, weights))
    return values, SHAPES, locations, weights


def encoder_locations(shape: tuple[int, ...]) -> Tensor:
    """Return locations around every token on all levels, with a standard deviation of two cells."""
    rows = [torch.cartesian_prod(centers(height), centers(width)).flip(-1) for height, width in SHAPES]
    references = torch.cat(rows)[:, None, None, None]  # (TOKENS, 1, 1, 1, 2)
    cells = torch.tensor([(width, height) for height, width in SHAPES], device="cuda")[:, None]
    return references + 2 * torch.randn(*shape, 2, device="cuda") / cells


def decoder_locations(shape: tuple[int, ...]) -> Tensor:
    """Return locations within a box for every query, up to half the image wide and high."""
    batch, queries, *_ = shape
    center = torch.rand(batch, queries, 1, 1, 1, 2, device="cuda")
    extent = torch.rand(batch, queries, 1, 1, 1, 2, device="cuda") / 2
    return center + (torch.rand(*shape, 2, device="cuda") - 0.5) * extent


def centers(cells: int) -> Tensor:
    """Return the centers of all cells along a side, in 0..1."""
    return (torch.arange(cells, device="cuda") + 0.5) / cells


def least_bytes(inputs: Inputs) -> tuple[int, int]:
    """Return the minimum bytes that forward and backward read and write: every input and output once."""
    values, _, locations, weights = inputs
    batch, queries, *_ = weights.shape
    output = batch * queries * HEADS * DIM * values.element_size()
    read = sum(leaf.numel() * leaf.element_size() for leaf in (values, locations, weights))
    return read + output, 2 * read + output


def as_text(content: dict[str, Any]) -> str:
    """Return a row of the table, or its heading for the description of the GPU."""
    if "gpu" in content:
        heading = "{gpu}, torch {torch}; a copy: {copy_rate:.0f} GB/s; largest difference: {largest_difference:.1e}"
        names = f"{'kernel':<14}{'place':<9}{'batch':>5}  {'dtype':<6}{'step':<10}{'ms':>9}{'GB/s':>8}{'gathered':>10}"
        return f"{heading.format(**content)}\n{names}"
    row = "{kernel:<14}{place:<9}{batch:>5}  {dtype:<6}{step:<10}{ms:>9.3f}{least_rate:>8.0f}{gathered_rate:>10.0f}"
    return row.format(**content)


if __name__ == "__main__":
    sys.exit(main())
