"""The fusion of the pyramid: one map at stride 8 for objects, and one for classes (docs/knet.md, "Fusion")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panformer_cli.models.layers.position_encoding import sine_position_encoding

GROUPS = 32
FIRST_CELL = 1.0
"""Position of the first cell in the position encoding: cells are counted from 1, without an offset."""


class ConvUnit(nn.Sequential):
    """A convolution without bias, GroupNorm and ReLU."""

    def __init__(self, dim: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, kernel_size, stride, kernel_size // 2, bias=False)
        self.norm = nn.GroupNorm(GROUPS, dim)
        self.activation = nn.ReLU(inplace=True)


class FusedLevel(nn.Module):
    """Brings one level of the pyramid to stride 8 with 3x3 units: P2 by a stride, P4 and P5 by enlarging between units.

    Args:
        dim: number of channels (C).
        level: 0 for P2 to 3 for P5.
    """

    def __init__(self, dim: int, level: int) -> None:
        super().__init__()
        self.units = nn.ModuleList([ConvUnit(dim, 3, stride=1 if level else 2) for _ in range(max(1, level))])

    def forward(self, feature: Tensor, sizes: Sequence[torch.Size]) -> Tensor:
        """Return (B, C, h, w) at stride 8 for a level (B, C, h', w').

        Args:
            feature: the level.
            sizes: heights and widths to which the maps between the units are enlarged.
        """
        first, *others = self.units
        feature = first(feature)
        for unit, size in zip(others, sizes, strict=True):
            feature = unit(F.interpolate(feature, size, mode="bilinear"))
        return feature


class SemanticFusion(nn.Module):
    """The sum of all levels at stride 8, and the two maps that are computed from it.

    Args:
        dim: number of channels (C).
        levels: number of levels of the pyramid.
    """

    def __init__(self, dim: int, levels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList([FusedLevel(dim, level) for level in range(levels)])
        self.location_head = ConvUnit(dim, 1)
        self.semantic_head = ConvUnit(dim, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the maps for objects and for classes, each (B, C, h, w) at stride 8, from P2 to P5."""
        *finer, coarsest = pyramid
        sizes = [level.shape[-2:] for level in pyramid]
        fused: Tensor | None = None
        for number, (fuse, level) in enumerate(zip(self.levels, [*finer, with_position(coarsest)], strict=True)):
            steps = [sizes[finer_level] for finer_level in range(number - 1, 0, -1)]  # down to P3
            at_stride_8 = fuse(level, steps)
            fused = at_stride_8 if fused is None else fused + at_stride_8
        assert fused is not None
        return self.location_head(fused), self.semantic_head(fused)


def with_position(feature: Tensor) -> Tensor:
    """Return a feature map (B, C, h, w) plus the sine position encoding of its cells, those of padding included."""
    padding_mask = torch.zeros_like(feature[:1, 0], dtype=torch.bool)
    position = sine_position_encoding(padding_mask, feature.shape[1], FIRST_CELL)
    return feature + position.permute(0, 3, 1, 2)
