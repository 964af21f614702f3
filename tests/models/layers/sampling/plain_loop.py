"""Deformable sampling as a plain loop: the reference for all implementations."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from panformer_cli.models.layers.common import LevelShapes


class Case(NamedTuple):
    """The arguments of a `DeformableSampling`."""

    values: Tensor
    shapes: LevelShapes
    locations: Tensor
    weights: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.values, self.locations, self.weights

    def to(self, values: torch.dtype, locations: torch.dtype) -> Case:
        """Return new leaf tensors with rounded values; `locations` is the dtype of locations and weights."""
        dtypes = (values, locations, locations)
        rounded = [
            tensor.detach().to(dtype).requires_grad_() for tensor, dtype in zip(self.tensors, dtypes, strict=True)
        ]
        return Case(rounded[0], self.shapes, *rounded[1:])


def random_case(
    shapes: LevelShapes, reach: float = 0.6, batch: int = 2, queries: int = 3, heads: int = 2, channels: int = 4
) -> Case:
    """Return a float64 case with two points per level and locations in 0.5 +- reach."""
    generator = torch.Generator().manual_seed(5)
    length = sum(height * width for height, width in shapes)
    values = torch.randn(batch, length, heads, channels, generator=generator, dtype=torch.float64)
    locations = torch.rand(batch, queries, heads, len(shapes), 2, 2, generator=generator, dtype=torch.float64)
    weights = torch.randn(batch, queries, heads, len(shapes), 2, generator=generator, dtype=torch.float64)
    case = Case(values, shapes, (locations - 0.5) * 2 * reach + 0.5, weights)
    return case.to(torch.float64, torch.float64)


def gradients(output: Tensor, case: Case) -> tuple[Tensor, ...]:
    """Return the gradients of values, locations and weights for a fixed random gradient of the output."""
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    return torch.autograd.grad(output, case.tensors, direction.to(output.dtype))


def plain_loop(values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Implement `DeformableSampling` with one loop per dimension."""
    batch, queries, heads, levels, points, _ = locations.shape
    starts = [sum(height * width for height, width in shapes[:level]) for level in range(levels)]
    rows = []
    for b in range(batch):
        for q in range(queries):
            for h in range(heads):
                total = torch.zeros(values.shape[-1], dtype=values.dtype)
                for level, (height, width) in enumerate(shapes):
                    cells = values[b, starts[level] : starts[level] + height * width, h].view(height, width, -1)
                    for p in range(points):
                        x, y = locations[b, q, h, level, p]
                        total = total + weights[b, q, h, level, p] * bilinear(cells, x, y)
                rows.append(total)
    return torch.stack(rows).view(batch, queries, -1)


def bilinear(level: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the value of a level (H, W, D) at x, y in 0..1. Cell centers are at (i + 0.5) / size."""
    height, width, _ = level.shape
    column, row = x * width - 0.5, y * height - 0.5
    left, top = math.floor(column.item()), math.floor(row.item())
    right_share, bottom_share = column - left, row - top
    return (
        cell_value(level, top, left) * (1 - right_share) * (1 - bottom_share)
        + cell_value(level, top, left + 1) * right_share * (1 - bottom_share)
        + cell_value(level, top + 1, left) * (1 - right_share) * bottom_share
        + cell_value(level, top + 1, left + 1) * right_share * bottom_share
    )


def cell_value(level: Tensor, row: int, column: int) -> Tensor:
    """Return a cell of a level (H, W, D), or zero outside."""
    height, width, channels = level.shape
    if 0 <= row < height and 0 <= column < width:
        return level[row, column]
    return torch.zeros(channels, dtype=level.dtype)
