"""From backbone features to four levels of equal width (spec, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from panformer_cli.models.layers.common import xavier_matrices

GROUPS = 32


class NeckLevel(nn.Sequential):
    """A convolution without bias and GroupNorm; no activation."""

    def __init__(self, in_channels: int, dim: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(in_channels, dim, kernel_size, stride, padding, bias=False)
        self.norm = nn.GroupNorm(GROUPS, dim)


class Neck(nn.Module):
    """1x1 convolutions on C3, C4, C5 and a stride-2 3x3 one on C5.

    channels: of C3, C4, C5. dim: channels of every level (C).
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        same_size = [NeckLevel(level_channels, dim, kernel_size=1, stride=1) for level_channels in channels]
        coarser = NeckLevel(channels[-1], dim, kernel_size=3, stride=2)
        self.levels = nn.ModuleList([*same_size, coarser])
        xavier_matrices(self)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """C3, C4, C5 (B, channels, H/8.., W/8..) to four levels (B, C, H/8.., W/8..), strides 8, 16, 32, 64."""
        inputs = [*features, features[-1]]
        return [level(feature) for level, feature in zip(self.levels, inputs, strict=True)]
