"""The mask decoders: masks from attention maps (paper, section 3.4; docs/model.md, "Mask decoders")."""

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
"""Queries per chunk of the tail in eager inference. The logits of a query at 800 x 1333 pixels take 0.7 MB."""


@dataclass
class MaskOutput:
    """The output of a mask decoder.

    Attributes:
        masks: (B, Q, h, w) per block and then of the tail, at stride 8; values are 0 or more, the threshold is 0.5. At
            inference only the tail's.
        queries: (B, Q, C) per block.
    """

    masks: list[Tensor]
    queries: list[Tensor]


class StuffQueries(nn.Module):
    """One learned query per stuff class, and the branches that predict whether the class is in the image."""

    def __init__(self, num_stuff: int, dim: int, blocks: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_stuff, 2 * dim)
        self.class_branches = nn.ModuleList([prior_linear(dim, 1) for _ in range(blocks)])

    def content_and_position(self) -> tuple[Tensor, Tensor]:
        """Return content and position, both (stuff, C). Unlike in thing queries, the content comes first."""
        content, position = self.embedding.weight.chunk(2, dim=1)
        return content, position

    def class_logits(self, block_queries: list[Tensor]) -> Tensor:
        """Return class logits (blocks, B, stuff) for the queries (B, stuff, C) of each block."""
        pairs = zip(self.class_branches, block_queries, strict=True)
        return torch.stack([branch(queries).squeeze(-1) for branch, queries in pairs])


class MaskHead(nn.Module):
    """Predicts one mask per query from the attention logits of all heads and levels.

    Args:
        heads: number of attention heads.
        levels: number of feature levels.
        waking_slope: see `waking_relu.relu`.
    """

    def __init__(self, heads: int, levels: int, waking_slope: float) -> None:
        super().__init__()
        self.levels = nn.ModuleList([nn.Linear(heads, heads) for _ in range(levels)])
        self.output = nn.Linear(levels * heads, 1)
        self.waking_slope = waking_slope

    def forward(self, logits: Sequence[Tensor], shapes: LevelShapes) -> Tensor:
        """Return masks (B, Q, *shapes[0]), 0 or more, for logits (B, heads, Q, h * w) of each level."""
        output_weights = self.output.weight.chunk(len(shapes), dim=1)  # (1, heads) each
        mask: Tensor = self.output.bias
        for level, part, weight, shape in zip(self.levels, logits, output_weights, shapes, strict=True):
            # The heads are mixed by multiplying from the left, so that the logits need not be transposed.
            assert isinstance(level, nn.Linear)
            weights = level.weight.expand(part.shape[0], -1, -1)
            mixed = torch.baddbmm(level.bias[None, :, None], weights, part.flatten(2))  # (B, heads, Q * length)
            # The output layer is linear, so it can precede the resize: one channel per level is enlarged, not eight.
            single = rearrange(
                weight @ relu(mixed, self.waking_slope), "b 1 (q y x) -> b q y x", y=shape[0], x=shape[1]
            )
            mask = mask + (single if level is self.levels[0] else _enlarge(single, shapes[0]))
        return relu(mask, self.waking_slope)


class MaskCrossAttention(nn.Module):
    """Cross-attention from queries to the memory, whose logits give the masks. The tail has no values."""

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

    def forward(self, queries: Tensor, memory: Tensor, shapes: LevelShapes) -> Tensor:
        """Return the masks of the tail; see `mask`."""
        return self.mask(queries, memory, shapes)

    def attend(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Return the attended values, (B, Q, C), without a mask, for queries (B, Q, C) and memory (B, L, C)."""
        q, v = self._by_head(self.q(queries)), self._by_head(self.v(memory))
        if q.device.type == "cpu" and q.dtype != torch.float32:
            # Fused attention is not faster than in float32 there, but the matrix products are.
            return self._projected(((q * self.scale) @ self._keys(memory)).softmax(-1).to(v.dtype) @ v)
        return self._projected(F.scaled_dot_product_attention(q, self._by_head(self.k(memory)), v))

    def attend_with_mask(self, queries: Tensor, memory: Tensor, shapes: LevelShapes) -> tuple[Tensor, Tensor]:
        """Return the attended values, (B, Q, C), and the masks, (B, Q, *shapes[0])."""
        logits = self._logits(self.q(queries), self.k(memory))
        gathered = self._projected(logits.softmax(-1) @ self._by_head(self.v(memory)))
        return gathered, self.mask_head(logits.split(_lengths(shapes), dim=-1), shapes)

    def mask(self, queries: Tensor, memory: Tensor, shapes: LevelShapes) -> Tensor:
        """Return only the masks, (B, Q, *shapes[0]), for queries (B, Q, C) and memory (B, L, C).

        Eager inference processes a few queries at a time, so that their logits stay in the cache.
        """
        levels = self._keys(memory).split(_lengths(shapes), dim=3)
        if levels[0].dtype != torch.float32:
            levels = tuple(level.contiguous() for level in levels)  # once, not in every product
        is_eager_inference = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        at_once = QUERIES_AT_ONCE if is_eager_inference else queries.shape[1]
        parts = [
            self.mask_head([some @ level for level in levels], shapes)
            for some in (self._by_head(self.q(queries)) * self.scale).split(max(at_once, 1), dim=2)
        ]
        return torch.cat(parts, dim=1)

    def _logits(self, q: Tensor, k: Tensor) -> Tensor:
        """Return logits (B, heads, Q, L), before the softmax, for (B, Q, C) and (B, L, C)."""
        logits: Tensor = (self._by_head(q) * self.scale) @ self._by_head(k).transpose(2, 3)
        return logits

    def _keys(self, memory: Tensor) -> Tensor:
        """Return keys (B, heads, D, L) of a memory (B, L, C)."""
        return rearrange(self.k.transposed(memory), "b (h d) l -> b h d l", h=self.heads)

    def _by_head(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b h n d", h=self.heads)

    def _projected(self, gathered: Tensor) -> Tensor:
        projected: Tensor = self.proj(rearrange(gathered, "b h q d -> b q (h d)"))
        return projected


class QuerySelfAttention(nn.Module):
    """Self-attention of the queries, with one projection for query, key and value."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, queries: Tensor) -> Tensor:
        """Return (B, Q, C) for queries (B, Q, C)."""
        q, k, v = rearrange(self.qkv(queries), "b q (three h d) -> three b h q d", three=3, h=self.heads)
        attended = F.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.proj(rearrange(attended, "b h q d -> b q (h d)"))
        return projected


class MaskDecoderBlock(nn.Module):
    """Self-attention (stuff only), cross-attention and MLP, each followed by a residual and LayerNorm."""

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
        """Return the new queries, (B, Q, C), and the masks, (B, Q, *shapes[0]), or None without `with_mask`."""
        if self.self_attention is not None:
            queries = self.norm3(queries + self.self_attention(queries))
        if with_mask:
            gathered, mask = self.attention.attend_with_mask(queries, memory, shapes)
        else:
            gathered, mask = self.attention.attend(queries, memory), None
        queries = self.norm1(queries + gathered)
        return self.norm2(queries + self.mlp(queries)), mask


class MaskDecoder(nn.Module):
    """Blocks that refine the queries, and a tail that only predicts their masks; `exit_early` can remove it.

    Args:
        mask_bias: initial bias of the last mask layer of each block and the tail; None keeps torch's default.
    """

    def __init__(self, blocks: list[MaskDecoderBlock], tail: MaskCrossAttention, mask_bias: float | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.tail = tail
        self.has_tail = True
        xavier_matrices(self)
        if mask_bias is not None:
            for attention in [*(block.attention for block in blocks), tail]:
                nn.init.constant_(attention.mask_head.output.bias, mask_bias)

    def layers(self) -> list[nn.Module]:
        """Return the blocks and the tail."""
        return [*self.blocks, *([self.tail] if self.has_tail else [])]

    def exit_early(self, layers: int, with_queries: bool) -> None:
        """Remove all but the first `layers` layers, so that the last of these predicts the masks.

        In training, the masks of every layer are compared with the targets. The tail is the last layer: with more
        layers than blocks, nothing changes.

        Args:
            layers: 1 or more.
            with_queries: whether the queries after the last layer are needed. Otherwise that layer, like the tail,
                computes nothing but its masks.
        """
        if layers > len(self.blocks):
            return
        last = self.blocks[layers - 1]
        assert isinstance(last, MaskDecoderBlock)
        self.blocks = self.blocks[: layers if with_queries else layers - 1]
        if with_queries:
            self.has_tail = False
        else:
            self.tail = last.attention

    def forward(
        self, queries: Tensor, position: Tensor | None, memory: Tensor, shapes: LevelShapes, every_mask: bool
    ) -> MaskOutput:
        """Return the masks and the refined queries.

        Args:
            queries: (B, Q, C).
            position: (Q, C), added at the start of each block and of the tail, so that it accumulates; or None.
            memory: (B, L, C) tokens of the first levels.
            shapes: height and width of these levels.
            every_mask: return the masks of the blocks too, for training.
        """
        output = MaskOutput(masks=[], queries=[])
        for layer, block in enumerate(self.blocks, start=1):
            assert isinstance(block, MaskDecoderBlock)
            is_last = not self.has_tail and layer == len(self.blocks)
            queries, mask = block(_positioned(queries, position), memory, shapes, every_mask or is_last)
            output.queries.append(queries)
            if mask is not None:
                output.masks.append(mask)
        if self.has_tail:
            output.masks.append(self.tail(_positioned(queries, position), memory, shapes))
        return output


def _positioned(queries: Tensor, position: Tensor | None) -> Tensor:
    return queries if position is None else queries + position


def _lengths(shapes: LevelShapes) -> list[int]:
    return [height * width for height, width in shapes]


def _enlarge(mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """Resize (B, Q, h, w) bilinearly to (B, Q, *shape)."""
    if mask.shape[1] == 0:  # `interpolate` raises an error; the sum keeps the gradient
        return mask.sum() + mask.new_zeros(*mask.shape[:2], *shape)
    return F.interpolate(mask, size=shape, mode="bilinear", align_corners=False)
