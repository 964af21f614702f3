"""Deformable sampling in plain PyTorch: for all devices, with gradients, and in a form that can be exported."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from panformer_cli.models.layers.common import LevelShapes


def grid_sampling(values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """`DeformableSampling` with `grid_sample`."""
    batch, _, heads, _ = values.shape
    original, dtype = values.dtype, torch.promote_types(values.dtype, torch.float32)
    values, locations, weights = values.to(dtype), locations.to(dtype), weights.to(dtype)
    grids = rearrange(2 * locations - 1, "b q h l p xy -> l (b h) q p xy")
    weights = rearrange(weights, "b q h l p -> l (b h) 1 q p")
    levels = values.split([height * width for height, width in shapes], dim=1)
    total: Tensor | None = None
    for level, (height, width) in enumerate(shapes):
        grid_values = rearrange(levels[level], "b (y x) h d -> (b h) d y x", y=height, x=width)
        sampled = F.grid_sample(grid_values, grids[level], mode="bilinear", padding_mode="zeros", align_corners=False)
        summed = (sampled * weights[level]).sum(-1)  # (B * heads, D, Q)
        total = summed if total is None else total + summed
    assert total is not None, "a feature pyramid has at least one level"
    return rearrange(total, "(b h) d q -> b q (h d)", b=batch, h=heads).to(original)


def gather_sampling(values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """`DeformableSampling` with plain indexing, for formats without `grid_sample`. It uses more memory."""
    batch, _, heads, _ = values.shape
    original, dtype = values.dtype, torch.promote_types(values.dtype, torch.float32)
    locations = rearrange(locations.to(dtype), "b q h l p xy -> l (b h) q p xy")
    weights = rearrange(weights.to(dtype), "b q h l p -> l (b h) q p")
    levels = values.to(dtype).split([height * width for height, width in shapes], dim=1)
    total: Tensor | None = None
    for level, shape in enumerate(shapes):
        cells = rearrange(levels[level], "b l h d -> (b h) l d")
        summed = _gather_level(cells, shape, locations[level], weights[level])
        total = summed if total is None else total + summed
    assert total is not None, "a feature pyramid has at least one level"
    return rearrange(total, "(b h) q d -> b q (h d)", b=batch, h=heads).to(original)


def _gather_level(cells: Tensor, shape: tuple[int, int], locations: Tensor, weights: Tensor) -> Tensor:
    """Return (N, Q, D) for cells (N, H * W, D), locations (N, Q, points, 2) in 0..1 and weights (N, Q, points)."""
    height, width = shape
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
