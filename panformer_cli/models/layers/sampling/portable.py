"""Deformable sampling in plain PyTorch: for all devices, with gradients, and in a form that can be exported.

Only the inputs are kept for the backward pass, in which each level is sampled again. The samples take `points` times as
much memory as the values.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from panformer_cli.models.layers.common import LevelShapes


def grid_sampling(values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """`DeformableSampling` with `grid_sample`."""
    total = _sum_of_levels(_grid_level, values, shapes, locations, weights)
    return rearrange(total, "(b h) d q -> b q (h d)", b=values.shape[0]).to(values.dtype)


def gather_sampling(values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """`DeformableSampling` with plain indexing, for formats without `grid_sample`. It uses more memory."""
    total = _sum_of_levels(_gather_level, values, shapes, locations, weights)
    return rearrange(total, "(b h) q d -> b q (h d)", b=values.shape[0]).to(values.dtype)


_Level = Callable[[Tensor, tuple[int, int], Tensor, Tensor], Tensor]
"""A function of the values of a level, (B, h * w, heads, D), its shape, its locations, (B, Q, heads, points, 2), and
its weights, (B, Q, heads, points)."""


def _sum_of_levels(sample: _Level, values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Return the sum over the levels, in the layout that `sample` returns. Half precision is summed in float32."""
    levels = values.split([height * width for height, width in shapes], dim=1)
    total: Tensor | None = None
    for number, shape in enumerate(shapes):
        inputs = (levels[number], shape, locations[:, :, :, number], weights[:, :, :, number])
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            summed = checkpoint(sample, *inputs, use_reentrant=False, preserve_rng_state=False)  # no random numbers
        else:
            summed = sample(*inputs)
        total = summed if total is None else total + summed
    assert total is not None, "a feature pyramid has at least one level"
    return total


def _grid_level(values: Tensor, shape: tuple[int, int], locations: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted samples of a level, (B * heads, D, Q)."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    cells = rearrange(values.to(dtype), "b (y x) h d -> (b h) d y x", y=shape[0], x=shape[1])
    grid = rearrange(2 * locations.to(dtype) - 1, "b q h p xy -> (b h) q p xy")
    sampled = F.grid_sample(cells, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (sampled * rearrange(weights.to(dtype), "b q h p -> (b h) 1 q p")).sum(-1)


def _gather_level(values: Tensor, shape: tuple[int, int], locations: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted samples of a level, (B * heads, Q, D)."""
    height, width = shape
    dtype = torch.promote_types(values.dtype, torch.float32)
    cells = rearrange(values.to(dtype), "b l h d -> (b h) l d")
    locations = rearrange(locations.to(dtype), "b q h p xy -> (b h) q p xy")
    weights = rearrange(weights.to(dtype), "b q h p -> (b h) q p")
    x, y = locations[..., 0] * width - 0.5, locations[..., 1] * height - 0.5
    left, top = x.floor(), y.floor()
    total = cells.new_zeros(*weights.shape[:2], cells.shape[2])
    for column, column_share in ((left, 1 - (x - left)), (left + 1, x - left)):
        for row, row_share in ((top, 1 - (y - top)), (top + 1, y - top)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)  # False for NaN
            share = torch.where(inside, weights * (column_share * row_share), 0.0)
            cell = torch.where(inside, row * width + column, 0.0).long()
            picked = cells.gather(1, cell.flatten(1)[..., None].expand(-1, -1, cells.shape[2]))
            total = total + torch.einsum("nqpd,nqp->nqd", picked.unflatten(1, cell.shape[1:]), share)
    return total
