"""Swin blocks that compute what the published weights were trained with (docs/model.md, "Backbones").

timm shifts a map before it pads it, and drops the shift on small maps; the release pads first and always shifts. At
sizes that are no multiple of the window the features differ by up to 59 % of their largest value.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from panformer_cli.models.backbones.feature_layout import FeatureLayout
from panformer_cli.models.backbones.timm_backbone import TimmBackbone

MASKED = -100.0
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
    """The parts of a timm block, run in the release's order: pad, shift, attend, shift back, cut.

    shift: cells that the windows are shifted by; 0 for every other block.
    """

    def __init__(self, block: SwinTransformerBlock, shift: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.drop_path1 = block.norm1, block.attn, block.drop_path1
        self.norm2, self.mlp, self.drop_path2 = block.norm2, block.mlp, block.drop_path2
        self.window: int = block.attn.window_size[0]
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.drop_path1(self._window_attention(self.norm1(x)))
        updated: Tensor = x + self.drop_path2(self.mlp(self.norm2(x)))
        return updated

    def _window_attention(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        grid = (-(-height // self.window), -(-width // self.window))
        rows, columns = (count * self.window for count in grid)
        x = F.pad(x, (0, 0, 0, columns - width, 0, rows - height))
        x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        attended = self.attn(_to_windows(x, grid, self.window), mask=self._shift_mask(grid, x))
        x = _from_windows(attended, batch, grid, self.window)
        return torch.roll(x, (self.shift, self.shift), dims=(1, 2))[:, :height, :width]

    def _shift_mask(self, grid: tuple[int, int], like: Tensor) -> Tensor | None:
        """(windows, cells, cells): MASKED between cells that only the shift has brought together."""
        if not self.shift:
            return None
        rows, columns = (_regions(count * self.window, self.window, self.shift, like.device) for count in grid)
        regions = (3 * rows[:, None] + columns)[None, :, :, None]
        windows = _to_windows(regions, grid, self.window)  # (windows, cells, 1)
        apart = windows.transpose(1, 2) != windows
        return torch.zeros_like(apart, dtype=like.dtype).masked_fill_(apart, MASKED)


def _to_windows(x: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """(B, H, W, C) to (B * windows, cells of a window, C).

    Every size is stated, because an exporter would have to solve for one that is -1.

    Args:
        grid: how many windows fill the height and the width.
        window: height and width of a window, cells.
    """
    batch, _, _, channels = x.shape
    cells = x.view(batch, grid[0], window, grid[1], window, channels).transpose(2, 3)
    return cells.reshape(batch * grid[0] * grid[1], window * window, channels)


def _from_windows(windows: Tensor, batch: int, grid: tuple[int, int], window: int) -> Tensor:
    """Undo `_to_windows`."""
    channels = windows.shape[-1]
    cells = windows.view(batch, grid[0], grid[1], window, window, channels).transpose(2, 3)
    return cells.reshape(batch, grid[0] * window, grid[1] * window, channels)


def _regions(size: int, window: int, shift: int, device: torch.device) -> Tensor:
    """(size,) 0, 1 or 2: whole windows, what stays in the last window, what the shift brought in from the other end."""
    index = torch.arange(size, device=device)
    return (index >= size - window).int() + (index >= size - shift).int()


def with_published_blocks(body: nn.Module) -> None:
    """Swap the blocks of timm's Swin feature pyramid, weights kept, for `PadFirstSwinBlock`s."""
    for stage in body.children():
        blocks = getattr(stage, "blocks", None)
        if blocks is not None:
            stage.blocks = nn.Sequential(
                *(
                    PadFirstSwinBlock(block, shift=0 if index % 2 == 0 else block.attn.window_size[0] // 2)
                    for index, block in enumerate(blocks)
                )
            )
