"""Swin blocks that compute what the published weights were trained with (docs/model.md, "Backbones").

timm shifts a map before it pads it, and does not shift small maps; the reference implementation pads first and always
shifts. At sizes that are not a multiple of the window, the features differ by up to 59 % of their largest value.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock, SwinTransformerStage
from torch import Tensor, nn

from panformer_cli.models.backbones.feature_layout import FeatureLayout
from panformer_cli.models.backbones.padding import ceil_div
from panformer_cli.models.backbones.timm_backbone import TimmBackbone
from panformer_cli.models.backbones.windows import Windows

PATCH = 4
"""Pixels; timm's Swin refuses images that are no multiple of it."""


class Swin(TimmBackbone):
    """Swin with the published blocks, and the published LayerNorm on each feature map.

    Args:
        name: see `Backbone`.
        architecture: timm's name of the model.
        indices: timm's numbers of C3, C4, C5.
        drop_path: stochastic depth rate of the last block, 0..1.
    """

    def __init__(self, name: str, architecture: str, indices: tuple[int, ...], drop_path: float) -> None:
        layout = FeatureLayout(indices, channels_last=True, multiple=PATCH, options={"strict_img_size": False})
        super().__init__(name, architecture, layout, drop_path)
        with_published_blocks(self.body)
        self.norms = nn.ModuleList([nn.LayerNorm(channels) for channels in self.channels])

    def normalized(self, features: list[Tensor]) -> list[Tensor]:
        return [norm(feature) for norm, feature in zip(self.norms, features, strict=True)]


class PadFirstSwinBlock(nn.Module):
    """The parts of a timm block, in the order of the reference implementation: pad, shift, attend, shift back, cut."""

    def __init__(self, block: SwinTransformerBlock) -> None:
        super().__init__()
        self.norm1, self.attn, self.drop_path1 = block.norm1, block.attn, block.drop_path1
        self.norm2, self.mlp, self.drop_path2 = block.norm2, block.mlp, block.drop_path2

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        attended = self.attn(windows.split(self.norm1(x)), mask=windows.mask)
        x = x + self.drop_path1(windows.merge(attended))
        updated: Tensor = x + self.drop_path2(self.mlp(self.norm2(x)))
        return updated


class PadFirstSwinBlocks(nn.Sequential):
    """The blocks of a stage. The windows of every other one are shifted by half a window.

    Args:
        blocks: of the stage.
        window: height and width of a window, cells.
    """

    def __init__(self, blocks: list[PadFirstSwinBlock], window: int) -> None:
        super().__init__(*blocks)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        regular, shifted = Windows(x, self.window, shift=0), Windows(x, self.window, shift=self.window // 2)
        for number, block in enumerate(self):
            x = block(x, shifted if number % 2 else regular)
        return x


class StridedPatchMerging(nn.Module):
    """timm's patch merging, computed without a view, whose sizes `torch.export` could not prove to fit."""

    def __init__(self, merging: PatchMerging) -> None:
        super().__init__()
        self.norm, self.reduction = merging.norm, merging.reduction

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2 * C); an odd map gets a row or a column of zeros."""
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, 2 * ceil_div(width, 2) - width, 0, 2 * ceil_div(height, 2) - height))
        merged = torch.cat([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=-1)
        reduced: Tensor = self.reduction(self.norm(merged))
        return reduced


def with_published_blocks(body: nn.Module) -> None:
    """Swap blocks and patch merging of timm's Swin feature pyramid, weights kept, for the modules above."""
    stages: list[Any] = [module for module in body.children() if isinstance(module, SwinTransformerStage)]
    for stage in stages:
        window = stage.blocks[0].attn.window_size[0]
        stage.blocks = PadFirstSwinBlocks([PadFirstSwinBlock(block) for block in stage.blocks], window)
        if isinstance(stage.downsample, PatchMerging):
            stage.downsample = StridedPatchMerging(stage.downsample)
