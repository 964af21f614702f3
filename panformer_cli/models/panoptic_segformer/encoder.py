"""The transformer encoder over the tokens of all levels (docs/model.md, "Encoder")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panformer_cli.models.layers.chunked import attend_in_chunks
from panformer_cli.models.layers.common import LevelShapes, is_eager_inference_on_cpu, xavier_matrices
from panformer_cli.models.layers.deformable_attention import DeformableAttention
from panformer_cli.models.layers.dropout import Dropout
from panformer_cli.models.layers.feedforward import FeedForward
from panformer_cli.models.layers.position_encoding import sine_position_encoding


@dataclass(frozen=True)
class Memory:
    """The encoder's output, which the decoders read.

    Attributes:
        tokens: (B, L, C), the levels concatenated, row by row.
        shapes: height and width of each level. L is the sum of their products.
        padding_mask: (B, L) bool, True on padding.
        valid_ratios: (B, levels, 2), the share of each level's width and height that is not padding.
    """

    tokens: Tensor
    shapes: LevelShapes
    padding_mask: Tensor
    valid_ratios: Tensor


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward, each followed by a residual and LayerNorm."""

    def __init__(self, attention: DeformableAttention, feedforward: FeedForward, dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.norm1 = nn.LayerNorm(dim)
        self.feedforward = feedforward
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(
        self, tokens: Tensor, position: Tensor, references: Tensor, shapes: LevelShapes, padding_mask: Tensor
    ) -> Tensor:
        """Return the new tokens, (B, L, C).

        Args:
            tokens: (B, L, C).
            position: (B, L, C) position encoding.
            references: (B, L, levels, 2), in 0..1 of each padded level.
            shapes: height and width of each level.
            padding_mask: (B, L) bool, True on padding.
        """
        if is_eager_inference_on_cpu(tokens):  # the same computation, faster
            return attend_in_chunks(self.attention, self.update, tokens, position, references, shapes, padding_mask)
        attended = self.attention(tokens + position, references, tokens, shapes, padding_mask)
        return self.update(tokens, attended)

    def update(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """Return the tokens after residuals, norms and feed-forward. All tensors are (B, L, C)."""
        tokens = self.norm1(tokens + self.dropout(attended))
        updated: Tensor = self.norm2(tokens + self.feedforward(tokens))
        return updated


class DeformableEncoder(nn.Module):
    """Flattens the levels to tokens and refines them.

    Args:
        dim: number of channels (C).
        levels: number of feature levels.
    """

    def __init__(self, layers: list[DeformableEncoderLayer], dim: int, levels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.level_embedding = nn.Parameter(torch.empty(levels, dim))
        xavier_matrices(self)
        nn.init.normal_(self.level_embedding)
        for layer in layers:
            layer.attention.reset_parameters()

    def forward(self, features: list[Tensor], padding_mask: Tensor) -> Memory:
        """Return the refined tokens.

        Args:
            features: one (B, C, H, W) tensor per level.
            padding_mask: (B, height, width) bool of the images, True on padding.
        """
        shapes = [(feature.shape[-2], feature.shape[-1]) for feature in features]
        masks = [resize_padding_mask(padding_mask, shape) for shape in shapes]
        tokens = torch.cat([feature.flatten(2).transpose(1, 2) for feature in features], dim=1)
        level_masks = torch.cat([mask.flatten(1) for mask in masks], dim=1)
        valid_ratios = torch.stack([_valid_ratio(mask) for mask in masks], dim=1)
        position = self.position(masks)
        references = reference_points(shapes, valid_ratios)
        for layer in self.layers:
            tokens = layer(tokens, position, references, shapes, level_masks)
        return Memory(tokens, shapes, level_masks, valid_ratios)

    def position(self, masks: list[Tensor]) -> Tensor:
        """Return the sine encoding of every cell plus the learned vector of its level, (B, L, C)."""
        codes = [sine_position_encoding(mask, self.level_embedding.shape[1]).flatten(1, 2) for mask in masks]
        return torch.cat([code + level for code, level in zip(codes, self.level_embedding, strict=True)], dim=1)


def resize_padding_mask(padding_mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """Resize a padding mask (B, height, width) to (B, *shape), nearest neighbor (docs/model.md, "Input")."""
    return F.interpolate(padding_mask[:, None].float(), size=shape, mode="nearest")[:, 0] > 0.5


def reference_points(shapes: LevelShapes, valid_ratios: Tensor) -> Tensor:
    """Return the cell centers as points on every level, (B, L, levels, 2), x and y in 0..1 of each padded level.

    A center is relative to the valid part of its own level, and then scaled to the valid part of the others.
    """
    points = []
    for level, (height, width) in enumerate(shapes):
        y, x = torch.meshgrid(
            torch.arange(0.5, height, device=valid_ratios.device),
            torch.arange(0.5, width, device=valid_ratios.device),
            indexing="ij",
        )
        valid = valid_ratios[:, level, :, None, None]  # (B, 2, 1, 1)
        # Width and height stay Python numbers: copying a tensor of them to a GPU would synchronize.
        point = torch.stack([x / (valid[:, 0] * width), y / (valid[:, 1] * height)], -1)
        points.append(point.flatten(1, 2))
    return torch.cat(points, 1)[:, :, None] * valid_ratios[:, None]


def _valid_ratio(mask: Tensor) -> Tensor:
    """Return the valid share of the width and of the height, (B, 2), of a padding mask (B, H, W)."""
    width = (~mask[:, 0, :]).sum(1) / mask.shape[2]
    height = (~mask[:, :, 0]).sum(1) / mask.shape[1]
    return torch.stack([width, height], -1)
