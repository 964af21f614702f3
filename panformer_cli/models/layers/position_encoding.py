"""DETR's sine code of a cell's place (spec, section 4; "Attention is all you need", section 3.5, in two dimensions)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10000.0
EPS = 1e-6


def sine_position_encoding(padding_mask: Tensor, dim: int) -> Tensor:
    """The position code of every cell of one level.

    padding_mask: (B, H, W) bool, True on padding, which the counts leave out.
    Returns (B, H, W, dim) float32: dim / 2 features of y, then dim / 2 of x.
    """
    valid = ~padding_mask
    y = _unit_range(valid.cumsum(1, dtype=torch.float32), axis=1)
    x = _unit_range(valid.cumsum(2, dtype=torch.float32), axis=2)
    return torch.cat([_features(y, dim // 2), _features(x, dim // 2)], dim=-1)


def _unit_range(count: Tensor, axis: int) -> Tensor:
    """Counts 1..n along `axis` to cell centres in 0..2 pi."""
    last = count.narrow(axis, count.shape[axis] - 1, 1)
    return (count - 0.5) / (last + EPS) * (2 * math.pi)


def _features(angle: Tensor, dim: int) -> Tensor:
    """(B, H, W) -> (B, H, W, dim): sines and cosines, interleaved, of ever slower waves."""
    index = torch.arange(dim, dtype=torch.float32, device=angle.device)
    wave = TEMPERATURE ** (2 * torch.div(index, 2, rounding_mode="floor") / dim)
    phase = angle[..., None] / wave
    return torch.stack([phase[..., 0::2].sin(), phase[..., 1::2].cos()], dim=-1).flatten(-2)
