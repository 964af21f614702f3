"""Multi-scale deformable attention (Deformable DETR, equation 3; spec, section 4)."""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from panformer_cli.models.layers import LevelShapes


class DeformableSampling(Protocol):
    """The inner step of deformable attention: what a faster implementation has to fill."""

    def __call__(self, values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
        """Weighted sum of bilinear samples of every level.

        values: (B, L, heads, D), the levels' cells one after the other, row by row; L = sum of H x W over `shapes`.
        locations: (B, Q, heads, levels, points, 2), x and y in 0..1 of each level (0, 0 is the outer corner of the
            first cell, not its centre). Outside of 0..1 the value is 0 (bilinear with zeros beyond the border).
        weights: (B, Q, heads, levels, points).
        Returns (B, Q, heads * D).
        """


def grid_sampling(values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """`DeformableSampling` in portable PyTorch, by `grid_sample`, for every device and for autograd."""
    batch, _, heads, _ = values.shape
    grids = rearrange(2 * locations - 1, "b q h l p xy -> l (b h) q p xy")
    weights = rearrange(weights, "b q h l p -> l (b h) 1 q p")
    levels = values.split([height * width for height, width in shapes], dim=1)
    total: Tensor | None = None
    for level, (height, width) in enumerate(shapes):
        grid_values = rearrange(levels[level], "b (y x) h d -> (b h) d y x", y=height, x=width)
        sampled = F.grid_sample(grid_values, grids[level], mode="bilinear", padding_mode="zeros", align_corners=False)
        summed = (sampled * weights[level]).sum(-1)  # (B * heads, D, Q)
        total = summed if total is None else total + summed
    assert total is not None, "a feature pyramid has at least one level"
    return rearrange(total, "(b h) d q -> b q (h d)", b=batch, h=heads)


class DeformableAttention(nn.Module):
    """Every query looks at a few points around its reference, on every level.

    dim: channels (C). heads, levels, points: as in the paper. `sampling` does the inner step.
    """

    def __init__(
        self, dim: int, heads: int, levels: int, points: int, sampling: DeformableSampling = grid_sampling
    ) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling = sampling
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)

    def reset_parameters(self) -> None:
        """Spec, section 4: offsets on a ring, uniform weights, xavier projections."""
        angle = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().max(-1, keepdim=True).values  # (heads, 2)
        distance = torch.arange(1, self.points + 1, dtype=torch.float32)
        ring = direction[:, None, None, :] * distance[None, None, :, None]
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(ring.expand(-1, self.levels, -1, -1).reshape(-1))
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self, query: Tensor, references: Tensor, memory: Tensor, shapes: LevelShapes, padding_mask: Tensor
    ) -> Tensor:
        """
        query: (B, Q, C), position added.
        references: (B, Q, levels, 2) points x, y, or (B, Q, levels, 4) boxes cx, cy, w, h; 0..1 of each padded level.
        memory: (B, L, C) tokens of all levels; `shapes` their heights and widths.
        padding_mask: (B, L) bool, True on padding, whose values count as zero.
        Returns (B, Q, C).
        """
        value = self.value_proj(memory).masked_fill(padding_mask[..., None], 0.0)
        value = rearrange(value, "b l (h d) -> b l h d", h=self.heads)
        offsets = rearrange(
            self.sampling_offsets(query), "b q (h l p xy) -> b q h l p xy", h=self.heads, l=self.levels, xy=2
        )
        weights = rearrange(self.attention_weights(query), "b q (h lp) -> b q h lp", h=self.heads).softmax(-1)
        weights = rearrange(weights, "b q h (l p) -> b q h l p", l=self.levels)
        locations = self._locations(references, offsets, shapes)
        # Under autocast too, places are float32: bfloat16 has but 256 of them along a side.
        sampled = self.sampling(value.float(), shapes, locations.float(), weights.float())
        projected: Tensor = self.output_proj(sampled)
        return projected

    def _locations(self, references: Tensor, offsets: Tensor, shapes: LevelShapes) -> Tensor:
        """(B, Q, heads, levels, points, 2) in 0..1: offsets count cells around a point, or half sizes of a box."""
        references = references[:, :, None, :, None, :]
        if references.shape[-1] == 4:
            return references[..., :2] + offsets / self.points * references[..., 2:] * 0.5
        cells = torch.tensor([(width, height) for height, width in shapes], device=offsets.device, dtype=torch.float32)
        return references + offsets / cells[:, None, :]
