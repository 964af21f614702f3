"""Deformable sampling on a GPU with two Triton kernels, forward and backward. Only the inputs are saved for backward.

For PyTorch it is one differentiable operator, `panformer::triton_sampling`, which `torch.compile` does not trace.
Triton is imported on the first call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from panformer_cli.models.layers.common import LevelShapes
from panformer_cli.models.layers.sampling.operator import (
    check_shapes,
    empty_gradients,
    empty_output,
    make_differentiable,
)

# Launch parameters. They are fixed, because autotuning would take longer than the kernels of many images.
# `benchmarks/deformable_attention_gpu.py --sweep` measures other values.
FORWARD_ELEMENTS = 512
"""Elements of a tile (samples x channels) per warp: 16 elements of every corner per thread, about 80 registers."""
BACKWARD_ELEMENTS = 256
"""The same for backward, which needs more registers: with 512 it would need 110 to 250, for low occupancy."""
QUERIES_PER_PROGRAM = 8
"""Maximum number of queries per program. Neighboring queries share cells in the L1 cache."""
ENOUGH_PROGRAMS = 16384
"""With fewer programs, a program gets fewer queries. The largest GPUs run about 3000 programs at a time."""


def triton_sampling(values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """`DeformableSampling` on a GPU, in float32, or in float64 if the values are.

    Bilinear like `grid_sample` with zero padding and align_corners=False. NaN and infinite locations count as outside.
    The gradient of `values` is summed in an order that changes from run to run, as in `grid_sample`.

    Raises:
        ValueError: the shapes of the tensors do not match.
    """
    sampled: Tensor = _sampling(values, locations, weights, [side for shape in shapes for side in shape])
    return sampled


def available() -> bool:
    """Return whether `triton_sampling` can run on this machine."""
    return not obstacle()


@cache
def obstacle() -> str:
    """Return why `triton_sampling` cannot run on this machine; empty if it can. The first call runs a trial."""
    if find_spec("triton") is None:
        return "the package triton is not installed"
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    one = torch.zeros(1, 1, 1, 1, device="cuda")
    try:
        triton_sampling(one, [(1, 1)], one.new_zeros(1, 1, 1, 1, 1, 2), one[..., None])
        torch.cuda.synchronize()
    except Exception as error:  # any type: an old GPU or driver, no C compiler, a read-only cache folder
        first_line = str(error).strip().partition("\n")[0]
        return f"a trial failed ({type(error).__name__}: {first_line})"
    return ""


@torch.library.custom_op(
    "panformer::triton_sampling",
    mutates_args=(),
    schema="(Tensor values, Tensor locations, Tensor weights, SymInt[] sides) -> Tensor",
)
def _sampling(values: Tensor, locations: Tensor, weights: Tensor, sides: Sequence[int]) -> Tensor:
    """Run the forward kernel. `sides` are the height and width of every level, one after the other."""
    from panformer_cli.models.layers.sampling.triton_kernels import forward_kernel

    inputs = _inputs(values, locations, weights, sides)
    output = empty_output(*inputs[:3], sides)
    _launch(forward_kernel, FORWARD_ELEMENTS, (*inputs, output), inputs)
    return output


@torch.library.custom_op(
    "panformer::triton_sampling_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor values, Tensor locations, Tensor weights, SymInt[] sides)"
    " -> (Tensor, Tensor, Tensor)",
)
def _backward(
    gradient: Tensor, values: Tensor, locations: Tensor, weights: Tensor, sides: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    from panformer_cli.models.layers.sampling.triton_kernels import backward_kernel

    inputs = _inputs(values, locations, weights, sides)
    _, of_locations, of_weights = empty_gradients(gradient, *inputs[:3], sides)
    of_values = torch.zeros_like(inputs[0], dtype=_sum_dtype(values))
    outputs = (of_values, of_locations, of_weights)
    _launch(backward_kernel, BACKWARD_ELEMENTS, (gradient.contiguous(), *inputs, *outputs), inputs)
    return of_values.to(values.dtype), of_locations, of_weights


_Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""Values, locations, weights and the table of `_level_table`, all contiguous."""


def _launch(kernel: Any, elements: int, tensors: tuple[Tensor, ...], inputs: _Inputs) -> None:
    """Run `kernel` on `tensors` for all queries; `elements` is the number of elements of a tile per warp."""
    values, locations, _, _ = inputs
    batch, length, heads, dim = values.shape
    _, queries, _, levels, points, _ = locations.shape
    if batch * queries == 0:
        return
    queries_per_program = min(max(batch * queries * heads // ENOUGH_PROGRAMS, 1), QUERIES_PER_PROGRAM)
    rows, columns = _power_of_two(levels * points), _power_of_two(dim)
    constants = {"HEADS": heads, "D": dim, "LEVELS": levels, "POINTS": points, "ROWS": rows, "COLUMNS": columns}
    with torch.cuda.device_of(values):
        kernel[math.ceil(queries / queries_per_program), heads, batch](
            *tensors,
            *(length, queries, queries_per_program),
            **constants,
            DOUBLE=_sum_dtype(values) == torch.float64,
            num_warps=min(max(rows * columns // elements, 1), 8),
            enable_fp_fusion=True,
        )


def _power_of_two(size: int) -> int:
    """Return the smallest power of two that is not less than `size`."""
    return 1 << (size - 1).bit_length()


def _sum_dtype(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


def _inputs(values: Tensor, locations: Tensor, weights: Tensor, sides: Sequence[int]) -> _Inputs:
    check_shapes(values, locations, weights, sides)
    levels = _level_table(tuple(sides), values.device)
    return values.contiguous(), locations.contiguous(), weights.contiguous(), levels


@lru_cache(maxsize=64)
def _level_table(sides: tuple[int, ...], device: torch.device) -> Tensor:
    """Return (levels, 3) int32: height, width and first cell. Cached, as a copy takes longer than a small launch."""
    rows, first = [], 0
    for height, width in zip(sides[::2], sides[1::2], strict=True):
        rows.append((height, width, first))
        first += height * width
    return torch.tensor(rows, dtype=torch.int32).to(device, non_blocking=True)


make_differentiable(_sampling, _backward)
