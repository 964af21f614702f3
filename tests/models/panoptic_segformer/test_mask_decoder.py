"""The mask decoder, compared with a plain implementation of docs/model.md, "Mask decoders", head by head."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panformer_cli.models.layers.common import LevelShapes
from panformer_cli.models.panoptic_segformer.mask_decoder import (
    MaskCrossAttention,
    MaskDecoder,
    MaskDecoderBlock,
    MaskHead,
    QuerySelfAttention,
)
from tests.models.panoptic_segformer.small import scramble

DIM, HEADS, QUERIES = 16, 4, 3
SHAPES: LevelShapes = [(7, 10), (4, 5), (2, 3)]
LENGTHS = [height * width for height, width in SHAPES]
LENGTH = sum(LENGTHS)


def mask_head(slope: float = 0.0) -> MaskHead:
    torch.manual_seed(0)
    head = MaskHead(HEADS, 3, slope)
    nn.init.constant_(head.output.bias, 0.2)
    return head


def decoder(blocks: int, self_attention: bool, slope: float = 0.0) -> MaskDecoder:
    layers = [
        MaskDecoderBlock(
            MaskCrossAttention(DIM, HEADS, mask_head(slope)),
            DIM,
            20,
            QuerySelfAttention(DIM, HEADS) if self_attention else None,
        )
        for _ in range(blocks)
    ]
    made = MaskDecoder(layers, MaskCrossAttention(DIM, HEADS, mask_head(slope), is_tail=True), mask_bias=0.5)
    scramble(made)
    return made


def noise(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def literal_mask(head: MaskHead, logits: Tensor) -> Tensor:
    """Return masks in the published order: resize all heads of each level, concatenate, then one linear layer."""
    maps, start = [], 0
    for (height, width), linear in zip(SHAPES, head.levels, strict=True):
        part = logits[..., start : start + height * width].permute(0, 2, 3, 1)  # (B, Q, cells, heads)
        mixed = F.relu(linear(part)).permute(0, 1, 3, 2).unflatten(-1, (height, width))
        enlarged = [
            F.interpolate(image, size=SHAPES[0], mode="bilinear", align_corners=False)  # (Q, heads, h, w)
            for image in mixed
        ]
        maps.append(torch.stack(enlarged))
        start += height * width
    stacked = torch.cat(maps, dim=2).permute(0, 1, 3, 4, 2)  # (B, Q, h, w, 24)
    return F.relu(head.output(stacked)).squeeze(-1)


def heads_of(x: Tensor) -> list[Tensor]:
    size = DIM // HEADS
    return [x[..., head * size : (head + 1) * size] for head in range(HEADS)]


def literal_logits(attention: MaskCrossAttention, queries: Tensor, memory: Tensor) -> Tensor:
    q, k = heads_of(attention.q(queries)), heads_of(attention.k(memory))
    pairs = [torch.einsum("bqd,bld->bql", q[head], k[head]) / math.sqrt(DIM / HEADS) for head in range(HEADS)]
    return torch.stack(pairs, dim=1)


def weighted(logits: Tensor, values: Tensor) -> Tensor:
    weights = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return torch.cat([weights[:, head] @ value for head, value in enumerate(heads_of(values))], dim=-1)


def normalized(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt() * norm.weight + norm.bias


def literal_block(block: MaskDecoderBlock, queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    if block.self_attention is not None:
        q, k, v = block.self_attention.qkv(queries).chunk(3, dim=-1)
        pairs = [a @ b.transpose(1, 2) / math.sqrt(DIM / HEADS) for a, b in zip(heads_of(q), heads_of(k), strict=True)]
        queries = normalized(queries + block.self_attention.proj(weighted(torch.stack(pairs, 1), v)), block.norm3)
    logits = literal_logits(block.attention, queries, memory)
    gathered = block.attention.proj(weighted(logits, block.attention.v(memory)))
    queries = normalized(queries + gathered, block.norm1)
    hidden = block.mlp[0](queries)
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))  # the exact GELU
    return normalized(queries + block.mlp[2](hidden), block.norm2), logits


def literal_decoder(
    made: MaskDecoder, queries: Tensor, position: Tensor | None, memory: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    masks, every_query = [], []
    shift = 0.0 if position is None else position
    for block in made.blocks:
        queries, logits = literal_block(block, queries + shift, memory)  # type: ignore[arg-type]
        every_query.append(queries)
        masks.append(literal_mask(block.attention.mask_head, logits))  # type: ignore[union-attr, arg-type]
    masks.append(literal_mask(made.tail.mask_head, literal_logits(made.tail, queries + shift, memory)))
    return masks, every_query


def test_the_mask_head_equals_the_plain_implementation_with_gradients() -> None:
    head = mask_head()
    scramble(head, seed=2)
    logits = noise(2, HEADS, QUERIES, LENGTH).requires_grad_()
    ours, theirs = head(logits.split(LENGTHS, dim=-1), SHAPES), literal_mask(head, logits)
    assert ours.shape == (2, QUERIES, *SHAPES[0])
    assert 0.1 < (theirs == 0).float().mean() < 0.9  # both sides of the last ReLU occur
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    inputs = [logits, *head.parameters()]
    direction = noise(*ours.shape, seed=4)
    for mine, other in zip(
        torch.autograd.grad(ours, inputs, direction), torch.autograd.grad(theirs, inputs, direction), strict=True
    ):
        assert other.abs().max() > 1e-2
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("self_attention", [False, True], ids=["things", "stuff"])
@pytest.mark.parametrize("with_position", [False, True], ids=["no position", "position"])
def test_the_decoder_equals_the_plain_implementation(self_attention: bool, with_position: bool) -> None:
    made = decoder(2, self_attention)
    queries, memory = noise(2, QUERIES, DIM), noise(2, LENGTH, DIM, seed=4)
    position = noise(QUERIES, DIM, seed=5) if with_position else None
    with torch.no_grad():
        output = made(queries, position, memory, SHAPES, every_mask=True)
        masks, every_query = literal_decoder(made, queries, position, memory)
    assert len(output.masks) == 3
    assert len(output.queries) == 2
    for ours, theirs in zip([*output.masks, *output.queries], [*masks, *every_query], strict=True):
        assert theirs.abs().max() > 0.1
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_inference_returns_only_the_mask_of_the_tail() -> None:
    made = decoder(2, self_attention=True)
    queries, memory = noise(2, QUERIES, DIM), noise(2, LENGTH, DIM, seed=4)
    with torch.no_grad():
        every = made(queries, None, memory, SHAPES, every_mask=True)
        last = made(queries, None, memory, SHAPES, every_mask=False)
    assert len(last.masks) == 1
    torch.testing.assert_close(last.masks[0], every.masks[-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("with_queries", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3, 4, 9])
def test_an_early_exit_gives_the_mask_that_training_gives_this_layer(layers: int, with_queries: bool) -> None:
    queries, position, memory = noise(2, QUERIES, DIM), noise(QUERIES, DIM, seed=5), noise(2, LENGTH, DIM, seed=4)
    made, whole = (decoder(3, self_attention=with_queries) for _ in range(2))
    made.exit_early(layers, with_queries)
    with torch.no_grad():
        every = whole(queries, position, memory, SHAPES, every_mask=True)
        last = made(queries, position, memory, SHAPES, every_mask=False)
    assert len(every.masks) == 4, "three blocks and the tail"
    assert len(last.masks) == 1
    torch.testing.assert_close(last.masks[0], every.masks[min(layers, 4) - 1], rtol=1e-5, atol=1e-5)
    assert len(made.layers()) == min(layers, 4)
    if with_queries:
        torch.testing.assert_close(last.queries[-1], every.queries[min(layers, 3) - 1], rtol=1e-5, atol=1e-5)


def test_the_mask_does_not_depend_on_the_number_of_queries_per_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    made = decoder(0, self_attention=False)
    queries, memory = noise(2, QUERIES, DIM), noise(2, LENGTH, DIM, seed=4)
    at_once = made.tail.mask(queries, memory, SHAPES)  # with gradients: all queries together
    for count in (1, 2, 7):
        monkeypatch.setattr("panformer_cli.models.panoptic_segformer.mask_decoder.QUERIES_AT_ONCE", count)
        with torch.no_grad():
            torch.testing.assert_close(made.tail.mask(queries, memory, SHAPES), at_once, rtol=1e-5, atol=1e-5)


def test_the_tail_has_only_query_and_key() -> None:
    made = decoder(1, self_attention=False)
    names = {name.split(".")[0] for name, _ in made.tail.named_parameters()}
    assert names == {"q", "k", "mask_head"}


def test_thing_queries_do_not_interact() -> None:
    made = decoder(2, self_attention=False)
    queries, memory = noise(1, QUERIES, DIM), noise(1, LENGTH, DIM, seed=4)
    with torch.no_grad():
        together = made(queries, None, memory, SHAPES, every_mask=False).masks[-1]
        alone = made(queries[:, 1:2], None, memory, SHAPES, every_mask=False).masks[-1]
    torch.testing.assert_close(together[:, 1:2], alone, rtol=1e-5, atol=1e-5)


def test_a_waking_slope_does_not_change_masks() -> None:
    queries, memory = noise(2, QUERIES, DIM), noise(2, LENGTH, DIM, seed=4)
    outputs = [decoder(2, True, slope)(queries, None, memory, SHAPES, every_mask=True).masks for slope in (0.0, 0.1)]
    for published, sloped in zip(*outputs, strict=True):
        assert (published == 0).any()
        assert torch.equal(published, sloped)


@pytest.mark.parametrize(("slope", "learns"), [(0.0, False), (0.1, True)])
def test_a_dead_mask_recovers_only_with_a_waking_slope(slope: float, learns: bool) -> None:
    head = mask_head(slope)
    nn.init.constant_(head.output.bias, -100.0)
    logits = noise(1, HEADS, QUERIES, LENGTH).requires_grad_()
    mask = head(logits.split(LENGTHS, dim=-1), SHAPES)
    assert not mask.any()
    rising = torch.autograd.grad(-mask.sum(), [logits, head.output.bias], retain_graph=True)
    assert all(bool(gradient.any()) == learns for gradient in rising)
    if learns:
        torch.testing.assert_close(rising[1], torch.tensor([-slope * mask.numel()]))
    falling = torch.autograd.grad(mask.sum(), [logits, head.output.bias])
    assert not any(gradient.any() for gradient in falling), "a dead mask cannot decrease any further"


def test_mask_bias_sets_every_last_bias_and_none_keeps_the_default() -> None:
    published = MaskDecoder([], MaskCrossAttention(DIM, HEADS, mask_head(), is_tail=True), mask_bias=None)
    assert published.tail.mask_head.output.bias.item() == pytest.approx(0.2)
    blocks = [MaskDecoderBlock(MaskCrossAttention(DIM, HEADS, mask_head()), DIM, 20, None) for _ in range(2)]
    made = MaskDecoder(blocks, MaskCrossAttention(DIM, HEADS, mask_head(), is_tail=True), mask_bias=0.5)
    heads = [module for module in made.modules() if isinstance(module, MaskHead)]
    assert [head.output.bias.item() for head in heads] == [0.5] * 3


@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_no_queries_give_no_masks_and_zero_gradients(slope: float) -> None:
    made = decoder(1, self_attention=False, slope=slope)
    masks = made(torch.zeros(1, 0, DIM), None, noise(1, LENGTH, DIM), SHAPES, every_mask=True).masks
    assert [tuple(mask.shape) for mask in masks] == [(1, 0, *SHAPES[0])] * 2
    torch.stack(masks).sum().backward()
    mask_parameters = [p for name, p in made.named_parameters() if "mask_head" in name]
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in mask_parameters)
