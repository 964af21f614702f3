"""The location decoder: boxes and classes of things (paper, section 3.3; docs/model.md, "Location decoder")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from panformer_cli.models.layers.common import inverse_sigmoid, xavier_matrices
from panformer_cli.models.layers.deformable_attention import DeformableAttention
from panformer_cli.models.layers.dropout import Dropout
from panformer_cli.models.layers.feedforward import FeedForward
from panformer_cli.models.layers.prior_linear import prior_linear
from panformer_cli.models.panoptic_segformer.encoder import Memory


@dataclass
class LocationOutput:
    """The predictions for all queries, after each layer.

    Attributes:
        class_logits: (layers, B, Q, things), before the sigmoid.
        boxes: (layers, B, Q, 4), cx, cy, w, h in 0..1 of the image without padding.
        queries: (B, Q, C), the last layer's output.
    """

    class_logits: Tensor
    boxes: Tensor
    queries: Tensor


class LocationDecoderLayer(nn.Module):
    """Self-attention, deformable cross-attention and feed-forward, each followed by a residual and LayerNorm."""

    def __init__(self, attention: DeformableAttention, feedforward: FeedForward, dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(dim, attention.heads, dropout, batch_first=True)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attention = attention
        self.norm2 = nn.LayerNorm(dim)
        self.feedforward = feedforward
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, queries: Tensor, position: Tensor, references: Tensor, memory: Memory) -> Tensor:
        """Return the new queries, (B, Q, C).

        Args:
            queries: (B, Q, C).
            position: (B, Q, C) query position.
            references: (B, Q, levels, 2 or 4), in 0..1 of each padded level.
            memory: output of the encoder.
        """
        positioned = queries + position
        attended, _ = self.self_attention(positioned, positioned, queries, need_weights=False)
        queries = self.norm1(queries + self.dropout(attended))
        attended = self.cross_attention(
            queries + position, references, memory.tokens, memory.shapes, memory.padding_mask
        )
        queries = self.norm2(queries + self.dropout(attended))
        updated: Tensor = self.norm3(queries + self.feedforward(queries))
        return updated


class LocationDecoder(nn.Module):
    """Finds objects with thing queries. Every layer refines the boxes of the previous layer.

    Args:
        dim: number of channels (C).
        num_queries: number of thing queries (Q).
        num_things: number of thing classes in the data set.
    """

    def __init__(self, layers: list[LocationDecoderLayer], dim: int, num_queries: int, num_things: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.query_embedding = nn.Embedding(num_queries, 2 * dim)
        self.reference_points = nn.Linear(dim, 2)
        self.class_branches = nn.ModuleList([prior_linear(dim, num_things) for _ in layers])
        # The first references are points. With -2, their initial boxes have sigmoid(-2) = 0.12 of the image's sides.
        sizes = [-2.0] + [0.0] * (len(layers) - 1)
        self.box_branches = nn.ModuleList([_box_branch(dim, size) for size in sizes])
        for layer in layers:
            xavier_matrices(layer)
            layer.cross_attention.reset_parameters()
        nn.init.normal_(self.query_embedding.weight)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: Memory) -> LocationOutput:
        batch = memory.tokens.shape[0]
        position, content = self.query_embedding.weight.chunk(2, dim=1)
        position = position.expand(batch, -1, -1)
        queries = content.expand(batch, -1, -1)
        references = self.reference_points(position).sigmoid()  # (B, Q, 2)
        class_logits, boxes = [], []
        for layer, class_branch, box_branch in zip(self.layers, self.class_branches, self.box_branches, strict=True):
            queries = layer(queries, position, _on_levels(references, memory.valid_ratios), memory)
            class_logits.append(class_branch(queries))
            boxes.append(_refine(references, box_branch(queries)))
            references = boxes[-1].detach()
        return LocationOutput(torch.stack(class_logits), torch.stack(boxes), queries)


def _box_branch(dim: int, size: float) -> nn.Sequential:
    """Return an MLP whose initial output is 0 for x and y, and `size`, before the sigmoid, for width and height."""
    last = nn.Linear(dim, 4)
    nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([0.0, 0.0, size, size]))
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), last)


def _refine(references: Tensor, change: Tensor) -> Tensor:
    """Return boxes (B, Q, 4): references (B, Q, 2 or 4) plus `change` (B, Q, 4), added before the sigmoid."""
    before = inverse_sigmoid(references)
    if before.shape[-1] == 2:
        before = nn.functional.pad(before, (0, 2))
    return (change + before).sigmoid()


def _on_levels(references: Tensor, valid_ratios: Tensor) -> Tensor:
    """Convert references in 0..1 of the image to 0..1 of each padded level, (B, Q, levels, 2 or 4)."""
    ratios = valid_ratios.repeat(1, 1, references.shape[-1] // 2)  # (B, levels, 2 or 4)
    return references[:, :, None] * ratios[:, None]
