"""Deformable sampling on the CPU with compiled loops.

For PyTorch it is one differentiable operator, `panformer::deformable_sampling`, which `torch.compile` does not trace.
The heads of all images, and in the forward pass chunks of the queries, are distributed over `torch.get_num_threads()`
threads. Results are bitwise equal for any number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from panformer_cli.models.layers.common import LevelShapes
from panformer_cli.models.layers.sampling.operator import check_shapes, make_differentiable

Array = np.ndarray[Any, Any]

FEW_SAMPLES = 100_000
"""With fewer samples than this, one thread finishes before others have started."""

MANY_SAMPLES_PER_CELL = 4
"""From this number on, it is faster to copy the values of each head together first. With interleaved heads, the cells
of one head are usually a power of two apart and can use only a part of the CPU cache."""


def cpu_sampling(values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """`DeformableSampling` with compiled loops, in float32, or in float64 if the values are.

    NaN locations count as outside. Values must be finite, because samples outside read a cell with weight zero.

    Raises:
        ValueError: the shapes of the tensors do not match.
    """
    sampled: Tensor = _sampling(values, locations, weights, [side for shape in shapes for side in shape])
    return sampled


@torch.library.custom_op(
    "panformer::deformable_sampling",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor values, Tensor locations, Tensor weights, SymInt[] sides) -> Tensor",
)
def _sampling(values: Tensor, locations: Tensor, weights: Tensor, sides: list[int]) -> Tensor:
    """Run the forward kernels. `sides` are the height and width of every level, one after the other."""
    from panformer_cli.models.layers.sampling.cpu_kernels import forward_kernel

    inputs = _inputs(values, locations, weights, sides)
    batch, queries, heads, samples = inputs.weights.shape
    output = np.empty((batch, queries, heads * values.shape[3]), inputs.values.dtype)
    kernel = forward_kernel(values.shape[3], samples)
    threads = _threads(weights)
    spans = math.ceil(4 * threads / max(batch * heads, 1))  # four parts per thread, for balance at the end
    parts = product(range(batch * heads), pairwise(np.linspace(0, queries, spans + 1, dtype=int).tolist()))
    _run(lambda head, part: kernel(*inputs, output, head, *part), parts, threads)
    return torch.from_numpy(output).to(values.dtype)


@torch.library.custom_op(
    "panformer::deformable_sampling_backward",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor gradient, Tensor values, Tensor locations, Tensor weights, SymInt[] sides)"
    " -> (Tensor, Tensor, Tensor)",
)
def _backward(
    gradient: Tensor, values: Tensor, locations: Tensor, weights: Tensor, sides: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    from panformer_cli.models.layers.sampling.cpu_kernels import backward_kernel

    inputs = _inputs(values, locations, weights, sides)
    batch, _, heads, samples = inputs.weights.shape
    direction = gradient.to(torch.from_numpy(inputs.values).dtype).contiguous().numpy()
    gradients = np.zeros_like(inputs.values), np.empty_like(inputs.locations), np.empty_like(inputs.weights)
    kernel = backward_kernel(values.shape[3], samples)
    parts = product(range(batch * heads))
    _run(lambda head: kernel(direction, *inputs, gradients, head), parts, _threads(weights))
    return (
        _with_heads(torch.from_numpy(gradients[0]), values.shape).to(values.dtype).contiguous(),
        torch.from_numpy(gradients[1]).view(locations.shape).to(locations.dtype),
        torch.from_numpy(gradients[2]).view(weights.shape).to(weights.dtype),
    )


make_differentiable(_sampling, _backward)


class _Inputs(NamedTuple):
    """Inputs of the kernels, all of one dtype; K = levels x points.

    Attributes:
        values: (B, L, heads * D) or (B * heads, L, D).
        locations: (B, Q, heads, 2 K).
        weights: (B, Q, heads, K).
        levels: (3, K), width, height and first cell of the level of each sample.
    """

    values: Array
    locations: Array
    weights: Array
    levels: Array


def _inputs(values: Tensor, locations: Tensor, weights: Tensor, sides: list[int]) -> _Inputs:
    check_shapes(values, locations, weights, sides)
    dtype = torch.promote_types(values.dtype, torch.float32)
    height, width = np.array(sides).reshape(-1, 2).T
    first = np.cumsum(height * width) - height * width
    many = weights.numel() >= MANY_SAMPLES_PER_CELL * values.shape[:3].numel()
    blocks = (_head_by_head(values, dtype) if many else values.to(dtype).flatten(2).contiguous()).numpy()
    return _Inputs(
        blocks,
        locations.to(dtype).flatten(3).contiguous().numpy(),
        weights.to(dtype).flatten(3).contiguous().numpy(),
        np.repeat([width, height, first], weights.shape[4], axis=1).astype(blocks.dtype),
    )


def _head_by_head(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (B, L, heads, D) values as (B * heads, L, D)."""
    batch, length, heads, channels = values.shape
    blocks = torch.empty(batch, heads, length, channels, dtype=dtype)
    return blocks.copy_(values.transpose(1, 2)).flatten(0, 1)


def _with_heads(blocks: Tensor, shape: torch.Size) -> Tensor:
    """Return values in either of the layouts of `_Inputs` as (B, L, heads, D)."""
    batch, length, heads, channels = shape
    if blocks.shape[2] == channels:
        return blocks.view(batch, heads, length, channels).transpose(1, 2)
    return blocks.view(shape)


def _threads(weights: Tensor) -> int:
    return 1 if weights.numel() < FEW_SAMPLES else torch.get_num_threads()


def _run(work: Callable[..., None], parts: Iterable[tuple[Any, ...]], threads: int) -> None:
    """Call `work` with each part. The threads end with this call, so that none is missing after a fork."""
    if threads == 1:
        for part in parts:
            work(*part)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda part: work(*part), parts):
            pass  # an error of a thread is raised here
