"""Swin blocks that compute what the published weights were trained with (spec, section 3).

timm shifts a map before it pads it, and drops the shift on small maps; the release pads first and always shifts. At
sizes that are no multiple of the window the features differ by up to 59 % of their largest value.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock, window_partition, window_reverse
from torch import Tensor, nn

MASKED = -100.0


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
        _, height, width, channels = x.shape
        x = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        padded_height, padded_width = x.shape[1:3]
        x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        windows = window_partition(x, (self.window, self.window)).flatten(1, 2)
        attended = self.attn(windows, mask=self._shift_mask(padded_height, padded_width, x))
        attended = attended.view(-1, self.window, self.window, channels)
        x = window_reverse(attended, (self.window, self.window), padded_height, padded_width)
        return torch.roll(x, (self.shift, self.shift), dims=(1, 2))[:, :height, :width]

    def _shift_mask(self, height: int, width: int, like: Tensor) -> Tensor | None:
        """(windows, cells, cells): MASKED between cells that only the shift has brought together."""
        if not self.shift:
            return None
        rows, columns = (_regions(size, self.window, self.shift, like.device) for size in (height, width))
        regions = (3 * rows[:, None] + columns)[None, :, :, None]
        windows = window_partition(regions, (self.window, self.window)).flatten(1)
        apart = windows[:, None, :] != windows[:, :, None]
        return torch.zeros_like(apart, dtype=like.dtype).masked_fill_(apart, MASKED)


def _regions(size: int, window: int, shift: int, device: torch.device) -> Tensor:
    """(size,) 0, 1 or 2: whole windows, what stays in the last window, what the shift brought in from the other end."""
    place = torch.arange(size, device=device)
    return (place >= size - window).int() + (place >= size - shift).int()


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
