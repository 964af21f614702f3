"""From queries to masks, by the attention maps themselves (paper, section 3.4; spec, section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from panformer_cli.models.layers.common import LevelShapes, xavier_matrices
from panformer_cli.models.layers.prior_linear import prior_linear
from panformer_cli.models.layers.token_linear import TokenLinear
from panformer_cli.models.layers.waking_relu import relu

EPS = 1e-6
MASK_LEVELS = 3
"""The mask decoders read the levels of strides 8, 16 and 32."""
QUERIES_AT_ONCE = 10
"""Queries per chunk of the tail in eager inference; one query's logits at 800 x 1333 pixels are 0.7 MB."""


@dataclass
class MaskOutput:
    """What a mask decoder says of every query.

    masks: one (B, Q, h, w) a block and a last one of the tail, values of 0 or more at stride 8, 0.5 the threshold. At
        inference only the tail's.
    queries: one (B, Q, C) a block.
    """

    masks: list[Tensor]
    queries: list[Tensor]


class StuffQueries(nn.Module):
    """One learned query per stuff class, and the branches that say whether the class is in the image."""

    def __init__(self, num_stuff: int, dim: int, blocks: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_stuff, 2 * dim)
        self.class_branches = nn.ModuleList([prior_linear(dim, 1) for _ in range(blocks)])

    def content_and_position(self) -> tuple[Tensor, Tensor]:
        """Both (stuff, C); here the content comes first, unlike in the thing queries (spec, section 6)."""
        content, position = self.embedding.weight.chunk(2, dim=1)
        return content, position

    def class_logits(self, block_queries: list[Tensor]) -> Tensor:
        """(B, stuff, C) of every block to (blocks, B, stuff)."""
        pairs = zip(self.class_branches, block_queries, strict=True)
        return torch.stack([branch(queries).squeeze(-1) for branch, queries in pairs])


class MaskHead(nn.Module):
    """Attention logits of all heads and levels to one mask.

    heads: attention heads. levels: feature levels. waking_slope: see `waking_relu.relu`.
    """

    def __init__(self, heads: int, levels: int, waking_slope: float) -> None:
        super().__init__()
        self.levels = nn.ModuleList([nn.Linear(heads, heads) for _ in range(levels)])
        self.output = nn.Linear(levels * heads, 1)
        self.waking_slope = waking_slope

    def forward(self, logits: Sequence[Tensor], shapes: LevelShapes) -> Tensor:
        """(B, heads, Q, h * w) logits of each level to (B, Q, *shapes[0]) masks of 0 or more."""
        output_weights = self.output.weight.chunk(len(shapes), dim=1)  # (1, heads) each
        mask: Tensor = self.output.bias
        for level, part, weight, shape in zip(self.levels, logits, output_weights, shapes, strict=True):
            # The heads are mixed by matrices that multiply from the left, so that the logits stay where they are.
            assert isinstance(level, nn.Linear)
            weights = level.weight.expand(part.shape[0], -1, -1)
            mixed = torch.baddbmm(level.bias[None, :, None], weights, part.flatten(2))  # (B, heads, Q * length)
            # The output linear sums over levels, so it may come before the resize: one channel to enlarge, not eight.
            single = rearrange(
                weight @ relu(mixed, self.waking_slope), "b 1 (q y x) -> b q y x", y=shape[0], x=shape[1]
            )
            mask = mask + (single if level is self.levels[0] else _enlarge(single, shapes[0]))
        return relu(mask, self.waking_slope)


class MaskCrossAttention(nn.Module):
    """Queries attend to the memory; the logits are the mask. The tail has no value path."""

    def __init__(self, dim: int, heads: int, mask_head: MaskHead, is_tail: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.q = nn.Linear(dim, dim)
        self.k = TokenLinear(dim, dim)
        self.mask_head = mask_head
        if not is_tail:
            self.v = TokenLinear(dim, dim)
            self.proj = nn.Linear(dim, dim)

    def attend(self, queries: Tensor, memory: Tensor) -> Tensor:
        """What the queries (B, Q, C) gather from the memory (B, L, C): (B, Q, C). No mask is asked for."""
        q, v = self._by_head(self.q(queries)), self._by_head(self.v(memory))
        if q.device.type == "cpu" and q.dtype != torch.float32:
            # Fused attention is no faster than in float32 there; the products alone are.
            return self._projected(((q * self.scale) @ self._keys(memory)).softmax(-1).to(v.dtype) @ v)
        return self._projected(F.scaled_dot_product_attention(q, self._by_head(self.k(memory)), v))

    def attend_with_mask(self, queries: Tensor, memory: Tensor, shapes: LevelShapes) -> tuple[Tensor, Tensor]:
        """The same, and the mask (B, Q, *shapes[0]) of the logits that led to it."""
        logits = self._logits(self.q(queries), self.k(memory))
        gathered = self._projected(logits.softmax(-1) @ self._by_head(self.v(memory)))
        return gathered, self.mask_head(logits.split(_lengths(shapes), dim=-1), shapes)

    def mask(self, queries: Tensor, memory: Tensor, shapes: LevelShapes) -> Tensor:
        """The mask alone: queries (B, Q, C), memory (B, L, C) to (B, Q, *shapes[0]).

        Eager inference takes a few queries at a time, so that their logits stay in the cache.
        """
        levels = self._keys(memory).split(_lengths(shapes), dim=3)
        if levels[0].dtype != torch.float32:
            levels = tuple(level.contiguous() for level in levels)  # once; such products would do it for every part
        is_eager_inference = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        at_once = QUERIES_AT_ONCE if is_eager_inference else queries.shape[1]
        parts = [
            self.mask_head([some @ level for level in levels], shapes)
            for some in (self._by_head(self.q(queries)) * self.scale).split(max(at_once, 1), dim=2)
        ]
        return torch.cat(parts, dim=1)

    def _logits(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, Q, C) and (B, L, C) -> (B, heads, Q, L) before the softmax."""
        logits: Tensor = (self._by_head(q) * self.scale) @ self._by_head(k).transpose(2, 3)
        return logits

    def _keys(self, memory: Tensor) -> Tensor:
        """(B, L, C) -> (B, heads, channels of a head, L)."""
        return rearrange(self.k.transposed(memory), "b (h d) l -> b h d l", h=self.heads)

    def _by_head(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b h n d", h=self.heads)

    def _projected(self, gathered: Tensor) -> Tensor:
        projected: Tensor = self.proj(rearrange(gathered, "b h q d -> b q (h d)"))
        return projected


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

    def forward(
        self, queries: Tensor, memory: Tensor, shapes: LevelShapes, with_mask: bool
    ) -> tuple[Tensor, Tensor | None]:
        """queries (B, Q, C), memory (B, L, C) -> the new queries, and the block's mask (B, Q, *shapes[0]) if wanted."""
        if self.self_attention is not None:
            queries = self.norm3(queries + self.self_attention(queries))
        if with_mask:
            gathered, mask = self.attention.attend_with_mask(queries, memory, shapes)
        else:
            gathered, mask = self.attention.attend(queries, memory), None
        queries = self.norm1(queries + gathered)
        return self.norm2(queries + self.mlp(queries)), mask


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
            queries, mask = block(_placed(queries, position), memory, shapes, every_mask)
            output.queries.append(queries)
            if mask is not None:
                output.masks.append(mask)
        output.masks.append(self.tail.mask(_placed(queries, position), memory, shapes))
        return output


def _placed(queries: Tensor, position: Tensor | None) -> Tensor:
    return queries if position is None else queries + position


def _lengths(shapes: LevelShapes) -> list[int]:
    return [height * width for height, width in shapes]


def _enlarge(mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """(B, Q, h, w) bilinearly to (B, Q, *shape)."""
    if mask.shape[1] == 0:  # `interpolate` refuses it; the sum keeps it a function of `mask` for autograd
        return mask.sum() + mask.new_zeros(*mask.shape[:2], *shape)
    return F.interpolate(mask, size=shape, mode="bilinear", align_corners=False)
