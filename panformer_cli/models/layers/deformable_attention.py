"""Multi-scale deformable attention (Deformable DETR, equation 3; spec, section 4)."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from panformer_cli.models.layers.common import LevelShapes, may_be_true
from panformer_cli.models.layers.sampling import DeformableSampling, fastest_sampling
from panformer_cli.models.layers.token_linear import TokenLinear


class DeformableAttention(nn.Module):
    """Every query looks at a few points around its reference, on every level.

    dim: channels (C). heads, levels, points: as in the paper. `sampling` does the inner step.
    """

    def __init__(
        self, dim: int, heads: int, levels: int, points: int, sampling: DeformableSampling = fastest_sampling
    ) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling = sampling
        self.sampling_offsets = TokenLinear(dim, heads * levels * points * 2)
        self.attention_weights = TokenLinear(dim, heads * levels * points)
        self.value_proj = TokenLinear(dim, dim)
        self.output_proj = TokenLinear(dim, dim)

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
        locations, weights = self.sampling_locations(query, references, shapes)
        projected: Tensor = self.output_proj(
            self.sampling(self.values(memory, padding_mask), shapes, locations, weights)
        )
        return projected

    def values(self, memory: Tensor, padding_mask: Tensor) -> Tensor:
        """What is sampled: (B, L, heads, D), of a memory (B, L, C); 0 on the padding (B, L)."""
        projected = self.value_proj(memory)
        if may_be_true(padding_mask):
            projected = projected.masked_fill_(padding_mask[..., None], 0.0)
        values: Tensor = rearrange(projected, "b l (h d) -> b l h d", h=self.heads)
        return values

    def sampling_locations(self, query: Tensor, references: Tensor, shapes: LevelShapes) -> tuple[Tensor, Tensor]:
        """Where the queries (B, Q, C) look, (B, Q, heads, levels, points, 2), and with which weights, without the 2.

        Both are float32 under autocast too: bfloat16 has but 256 places along a side.
        """
        offsets = rearrange(self.sampling_offsets(query), "b q (h lpxy) -> b q h lpxy", h=self.heads)
        weights = rearrange(self.attention_weights(query), "b q (h lp) -> b q h lp", h=self.heads)
        locations = self._locations(references.float(), offsets.float(), shapes)
        return locations, rearrange(weights.float().softmax(-1), "b q h (l p) -> b q h l p", l=self.levels)

    def _locations(self, references: Tensor, offsets: Tensor, shapes: LevelShapes) -> Tensor:
        """(B, Q, heads, levels, points, 2) in 0..1: offsets count cells around a point, or half sizes of a box.

        offsets: (B, Q, heads, levels * points * 2). The rest is repeated to rows of that length, because arithmetic on
        pairs of x and y takes several times as long.
        """
        references = references.repeat_interleave(self.points, 2)  # (B, Q, levels * points, 2 or 4)
        centres = references[..., :2].flatten(2)[:, :, None]
        if references.shape[-1] == 4:
            locations = centres + offsets / self.points * references[..., 2:].flatten(2)[:, :, None] * 0.5
        else:
            locations = torch.addcdiv(centres, offsets, self._cells(shapes, offsets))
        return rearrange(locations, "b q h (l p xy) -> b q h l p xy", l=self.levels, p=self.points)

    def _cells(self, shapes: LevelShapes, like: Tensor) -> Tensor:
        """Return width and height of each level for each of its points, (levels * points * 2,).

        They are filled in one by one: a tensor copied from a list would wait for the GPU, and an exported graph would
        fix the sizes.
        """
        sides = [like.new_full((1, 1), side) for height, width in shapes for side in (width, height)]
        return torch.cat(sides).view(self.levels, 1, 2).expand(-1, self.points, -1).flatten()
