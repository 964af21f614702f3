"""Multi-scale deformable attention (Deformable DETR, equation 3; docs/model.md, "Encoder")."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from panformer_cli.models.layers.common import LevelShapes, may_be_true
from panformer_cli.models.layers.sampling import DeformableSampling, fastest_sampling
from panformer_cli.models.layers.token_linear import TokenLinear


class DeformableAttention(nn.Module):
    """Attention of each query to a few sampling points around its reference, on every level.

    Args:
        dim: number of channels (C).
        heads: number of attention heads.
        levels: number of feature levels.
        points: number of sampling points per head and level.
        sampling: implementation of the inner step.
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
        """Initialize offsets on a ring, uniform weights and Xavier projections (docs/model.md, "Initialization")."""
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
        """Return the attended values, (B, Q, C).

        Args:
            query: (B, Q, C) with the position added.
            references: (B, Q, levels, 2) points x, y, or (B, Q, levels, 4) boxes cx, cy, w, h, in 0..1 of each padded
                level.
            memory: (B, L, C) tokens of all levels.
            shapes: height and width of each level.
            padding_mask: (B, L) bool, True on padding, where the values are zero.
        """
        locations, weights = self.sampling_locations(query, references, shapes)
        projected: Tensor = self.output_proj(
            self.sampling(self.values(memory, padding_mask), shapes, locations, weights)
        )
        return projected

    def values(self, memory: Tensor, padding_mask: Tensor) -> Tensor:
        """Return the values to sample, (B, L, heads, D), from a memory (B, L, C). They are 0 on padding (B, L)."""
        projected = self.value_proj(memory)
        if may_be_true(padding_mask):
            projected = projected.masked_fill_(padding_mask[..., None], 0.0)
        values: Tensor = rearrange(projected, "b l (h d) -> b l h d", h=self.heads)
        return values

    def sampling_locations(self, query: Tensor, references: Tensor, shapes: LevelShapes) -> tuple[Tensor, Tensor]:
        """Return the sampling locations, (B, Q, heads, levels, points, 2), and the attention weights, without the 2.

        Both are float32, under autocast too, because bfloat16 can only represent 256 locations along a side.
        """
        offsets = rearrange(self.sampling_offsets(query), "b q (h lpxy) -> b q h lpxy", h=self.heads)
        weights = rearrange(self.attention_weights(query), "b q (h lp) -> b q h lp", h=self.heads)
        locations = self._locations(references.float(), offsets.float(), shapes)
        return locations, rearrange(weights.float().softmax(-1), "b q h (l p) -> b q h l p", l=self.levels)

    def _locations(self, references: Tensor, offsets: Tensor, shapes: LevelShapes) -> Tensor:
        """Return sampling locations in 0..1, (B, Q, heads, levels, points, 2).

        The unit of an offset is a cell for point references, and a fraction of half the size for boxes. References
        are repeated to rows of the length of `offsets`, because arithmetic on pairs of x and y is several times slower.

        Args:
            offsets: (B, Q, heads, levels * points * 2).
        """
        references = references.repeat_interleave(self.points, 2)  # (B, Q, levels * points, 2 or 4)
        centers = references[..., :2].flatten(2)[:, :, None]
        if references.shape[-1] == 4:
            locations = centers + offsets / self.points * references[..., 2:].flatten(2)[:, :, None] * 0.5
        else:
            locations = torch.addcdiv(centers, offsets, self._cells(shapes, offsets))
        return rearrange(locations, "b q h (l p xy) -> b q h l p xy", l=self.levels, p=self.points)

    def _cells(self, shapes: LevelShapes, like: Tensor) -> Tensor:
        """Return the width and height of each level for each of its points, (levels * points * 2,).

        They are filled in one by one. Copying a tensor made from a list would synchronize with the GPU, and an exported
        graph would contain fixed sizes.
        """
        sides = [like.new_full((1, 1), side) for height, width in shapes for side in (width, height)]
        return torch.cat(sides).view(self.levels, 1, 2).expand(-1, self.points, -1).flatten()
