"""From queries to masks, by the attention maps themselves (paper, section 3.4; spec, section 6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from panformer_cli.models.layers import LevelShapes, relu, xavier_matrices

EPS = 1e-6
MASK_LEVELS = 3
"""The mask decoders read the levels of strides 8, 16 and 32."""


@dataclass
class MaskOutput:
    """What a mask decoder says of every query.

    masks: one (B, Q, h, w) a block and a last one of the tail, values of 0 or more at stride 8, 0.5 the threshold. At
        inference only the tail's.
    queries: one (B, Q, C) a block.
    """

    masks: list[Tensor]
    queries: list[Tensor]


class MaskHead(nn.Module):
    """Attention logits of all heads and levels to one mask.

    heads: attention heads. levels: feature levels. waking_slope: see `layers.relu`.
    """

    def __init__(self, heads: int, levels: int, waking_slope: float) -> None:
        super().__init__()
        self.levels = nn.ModuleList([nn.Linear(heads, heads) for _ in range(levels)])
        self.output = nn.Linear(levels * heads, 1)
        self.waking_slope = waking_slope

    def forward(self, logits: Tensor, shapes: LevelShapes) -> Tensor:
        """(B, heads, Q, L) logits to (B, Q, *shapes[0]) masks of 0 or more."""
        lengths = [height * width for height, width in shapes]
        output_weights = self.output.weight[0].chunk(len(shapes))
        mask: Tensor = self.output.bias
        for level, part, weight, shape in zip(
            self.levels, logits.split(lengths, dim=-1), output_weights, shapes, strict=True
        ):
            mixed = relu(level(part.permute(0, 2, 3, 1)), self.waking_slope)  # (B, Q, length, heads)
            # The output linear sums over levels, so it may come before the resize: one channel to enlarge, not eight.
            single = rearrange(mixed @ weight, "b q (y x) -> b q y x", y=shape[0])
            mask = mask + _enlarge(single, shapes[0])
        return relu(mask, self.waking_slope)


class MaskCrossAttention(nn.Module):
    """Queries attend to the memory; the logits are the mask. The tail has no value path."""

    def __init__(self, dim: int, heads: int, mask_head: MaskHead, is_tail: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.mask_head = mask_head
        if not is_tail:
            self.v = nn.Linear(dim, dim)
            self.proj = nn.Linear(dim, dim)

    def logits(self, queries: Tensor, memory: Tensor) -> Tensor:
        """queries (B, Q, C), memory (B, L, C) -> (B, heads, Q, L) before the softmax."""
        q = rearrange(self.q(queries), "b q (h d) -> b h q d", h=self.heads)
        k = rearrange(self.k(memory), "b l (h d) -> b h d l", h=self.heads)
        logits: Tensor = (q @ k) * self.scale
        return logits

    def attend(self, logits: Tensor, memory: Tensor) -> Tensor:
        """What the queries gather: (B, Q, C)."""
        v = rearrange(self.v(memory), "b l (h d) -> b h l d", h=self.heads)
        gathered: Tensor = self.proj(rearrange(logits.softmax(-1) @ v, "b h q d -> b q (h d)"))
        return gathered


class QuerySelfAttention(nn.Module):
    """Plain attention among the queries, one projection for query, key and value."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, queries: Tensor) -> Tensor:
        """(B, Q, C) -> (B, Q, C)."""
        q, k, v = rearrange(self.qkv(queries), "b q (three h d) -> three b h q d", three=3, h=self.heads)
        attended = F.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.proj(rearrange(attended, "b h q d -> b q (h d)"))
        return projected


class MaskDecoderBlock(nn.Module):
    """(Stuff only: self-attention,) cross-attention and MLP; each with residual and LayerNorm after it."""

    def __init__(
        self, attention: MaskCrossAttention, dim: int, feedforward_dim: int, self_attention: QuerySelfAttention | None
    ) -> None:
        super().__init__()
        self.attention = attention
        self.norm1 = nn.LayerNorm(dim, EPS)
        self.mlp = nn.Sequential(nn.Linear(dim, feedforward_dim), nn.GELU(), nn.Linear(feedforward_dim, dim))
        self.norm2 = nn.LayerNorm(dim, EPS)
        self.self_attention = self_attention
        if self_attention is not None:
            self.norm3 = nn.LayerNorm(dim, EPS)

    def forward(self, queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """queries (B, Q, C), memory (B, L, C) -> the new queries and the attention logits (B, heads, Q, L)."""
        if self.self_attention is not None:
            queries = self.norm3(queries + self.self_attention(queries))
        logits = self.attention.logits(queries, memory)
        queries = self.norm1(queries + self.attention.attend(logits, memory))
        return self.norm2(queries + self.mlp(queries)), logits


class MaskDecoder(nn.Module):
    """Blocks that refine the queries, and a tail that only draws their masks.

    mask_bias: initial bias of every block's output linear; None keeps torch's default.
    """

    def __init__(self, blocks: list[MaskDecoderBlock], tail: MaskCrossAttention, mask_bias: float | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.tail = tail
        xavier_matrices(self)
        if mask_bias is not None:
            for attention in [*(block.attention for block in blocks), tail]:
                nn.init.constant_(attention.mask_head.output.bias, mask_bias)

    def forward(
        self, queries: Tensor, position: Tensor | None, memory: Tensor, shapes: LevelShapes, every_mask: bool
    ) -> MaskOutput:
        """
        queries: (B, Q, C). position: (Q, C) added at every block's entry (it accumulates), or None.
        memory: (B, L, C) tokens of the first levels, whose `shapes` they have.
        every_mask: also the masks of the blocks, which training needs.
        """
        output = MaskOutput(masks=[], queries=[])
        for block in self.blocks:
            assert isinstance(block, MaskDecoderBlock)
            queries, logits = block(_placed(queries, position), memory)
            output.queries.append(queries)
            if every_mask:
                output.masks.append(block.attention.mask_head(logits, shapes))
        logits = self.tail.logits(_placed(queries, position), memory)
        output.masks.append(self.tail.mask_head(logits, shapes))
        return output


def _placed(queries: Tensor, position: Tensor | None) -> Tensor:
    return queries if position is None else queries + position


def _enlarge(mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """(B, Q, h, w) bilinearly to (B, Q, *shape)."""
    if mask.shape[-2:] == shape:
        return mask
    if mask.shape[1] == 0:  # `interpolate` refuses it; the sum keeps it a function of `mask` for autograd
        return mask.sum() + mask.new_zeros(*mask.shape[:2], *shape)
    return F.interpolate(mask, size=shape, mode="bilinear", align_corners=False)
