"""The neck: from backbone features to four levels with the same channels (docs/model.md, "Neck")."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from panformer_cli.models.layers.common import xavier_matrices

GROUPS = 32


class NeckLevel(nn.Sequential):
    """A convolution without bias, followed by GroupNorm; no activation."""

    def __init__(self, in_channels: int, dim: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(in_channels, dim, kernel_size, stride, padding, bias=False)
        self.norm = nn.GroupNorm(GROUPS, dim)


class Neck(nn.Module):
    """1x1 convolutions on C3, C4 and C5, and a 3x3 convolution with stride 2 on C5.

    Args:
        channels: numbers of channels of C3, C4 and C5.
        dim: number of channels of every level (C).
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        same_size = [NeckLevel(level_channels, dim, kernel_size=1, stride=1) for level_channels in channels]
        coarser = NeckLevel(channels[-1], dim, kernel_size=3, stride=2)
        self.levels = nn.ModuleList([*same_size, coarser])
        xavier_matrices(self)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return four levels (B, C, h, w) at strides 8, 16, 32, 64 for C3, C4 and C5 (B, channels, h, w)."""
        inputs = [*features, features[-1]]
        return [level(feature) for level, feature in zip(self.levels, inputs, strict=True)]
