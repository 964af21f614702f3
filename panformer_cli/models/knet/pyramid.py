"""The feature pyramid: C2 to C5 with the same channels, each plus the coarser levels (docs/knet.md, "Pyramid")."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """1x1 convolutions, sums from coarse to fine, and 3x3 convolutions; no norm and no activation.

    Args:
        channels: numbers of channels of C2 to C5.
        dim: number of channels of every level (C).
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(level_channels, dim, 1) for level_channels in channels])
        self.smooth = nn.ModuleList([nn.Conv2d(dim, dim, 3, padding=1) for _ in channels])

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return P2 to P5, (B, C, h, w) at strides 4, 8, 16, 32, for C2 to C5, (B, channels, h, w)."""
        levels = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for finer in reversed(range(len(levels) - 1)):
            levels[finer] = levels[finer] + F.interpolate(levels[finer + 1], levels[finer].shape[-2:], mode="nearest")
        return [smooth(level) for smooth, level in zip(self.smooth, levels, strict=True)]
