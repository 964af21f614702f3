"""DETR's sine position encoding ("Attention is all you need", section 3.5, in 2D; docs/model.md, "Encoder")."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10000.0
EPS = 1e-6


def sine_position_encoding(padding_mask: Tensor, dim: int, start: float = 0.5) -> Tensor:
    """Return the position encoding of every cell of one level.

    Args:
        padding_mask: (B, H, W) bool, True on padding, which is not counted.
        dim: number of features.
        start: position of the first cell, in cells: 0.5, its center, or 1, its far edge.

    Returns:
        (B, H, W, dim) float32: dim / 2 features of y, then dim / 2 of x.
    """
    valid = ~padding_mask
    y = _unit_range(valid.cumsum(1, dtype=torch.float32), start, axis=1)
    x = _unit_range(valid.cumsum(2, dtype=torch.float32), start, axis=2)
    return torch.cat([_features(y, dim // 2), _features(x, dim // 2)], dim=-1)


def _unit_range(count: Tensor, start: float, axis: int) -> Tensor:
    """Convert counts 1..n along `axis` to positions in 0..2 pi."""
    last = count.narrow(axis, count.shape[axis] - 1, 1)
    return (count - (1 - start)) / (last + EPS) * (2 * math.pi)


def _features(angle: Tensor, dim: int) -> Tensor:
    """Return interleaved sines and cosines of increasing wavelength, (B, H, W, dim), for angles (B, H, W)."""
    index = torch.arange(dim, dtype=torch.float32, device=angle.device)
    wave = TEMPERATURE ** (2 * torch.div(index, 2, rounding_mode="floor") / dim)
    phase = angle[..., None] / wave
    return torch.stack([phase[..., 0::2].sin(), phase[..., 1::2].cos()], dim=-1).flatten(-2)
