"""Refinement of boxes, and the flow of gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from panformer_cli.models.panoptic_segformer.encoder import Memory
from panformer_cli.models.panoptic_segformer.location_decoder import LocationDecoder, LocationOutput
from tests.models.panoptic_segformer.small import scramble, small_model

SHAPES = [(4, 6), (2, 3), (1, 2), (1, 1)]
LENGTH = sum(height * width for height, width in SHAPES)


def decoder(things: int = 3) -> LocationDecoder:
    made = small_model(things=things).location_decoder
    scramble(made)
    return made.eval()


def memory(batch: int = 1, ratio: float = 1.0) -> Memory:
    tokens = torch.randn(batch, LENGTH, 32, generator=torch.Generator().manual_seed(4))
    return Memory(tokens, SHAPES, torch.zeros(batch, LENGTH, dtype=torch.bool), torch.full((batch, 4, 2), ratio))


@pytest.mark.slow
def test_the_output_has_classes_and_boxes_of_all_queries_after_each_layer() -> None:
    output = decoder()(memory(batch=2))
    assert output.class_logits.shape == (2, 2, 7, 3)
    assert output.boxes.shape == (2, 2, 7, 4)
    assert output.queries.shape == (2, 7, 32)
    assert ((output.boxes > 0) & (output.boxes < 1)).all()


def logit(x: Tensor) -> Tensor:
    return (x / (1 - x)).log()


def test_boxes_are_references_plus_changes_before_the_sigmoid() -> None:
    made = decoder()
    changes: list[Tensor] = []
    for branch in made.box_branches:
        branch.register_forward_hook(lambda _, __, change: changes.append(change))
    references: list[Tensor] = []
    for layer in made.layers:
        layer.register_forward_pre_hook(lambda _, inputs: references.append(inputs[2]))
    with torch.no_grad():
        output = made(memory(ratio=0.5))
        position = made.query_embedding.weight[:, :32]
        start = (position @ made.reference_points.weight.T + made.reference_points.bias).sigmoid()
    first = torch.cat([logit(start), torch.zeros(7, 2)], dim=1)  # only x and y are known at the first layer
    torch.testing.assert_close(output.boxes[0, 0], (first + changes[0][0]).sigmoid(), rtol=1e-4, atol=1e-5)
    second = logit(output.boxes[0, 0])
    torch.testing.assert_close(output.boxes[1, 0], (second + changes[1][0]).sigmoid(), rtol=1e-4, atol=1e-5)
    # References are scaled to the valid part of each level, here one half.
    torch.testing.assert_close(references[0][0], 0.5 * start[:, None].expand(7, 4, 2))
    torch.testing.assert_close(references[1][0], 0.5 * output.boxes[0, 0][:, None].expand(7, 4, 4))


def test_a_query_is_its_position_followed_by_its_content() -> None:
    made = decoder()
    seen: list[tuple[Tensor, ...]] = []
    made.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    made(memory())
    content, position = seen[0][:2]
    torch.testing.assert_close(position[0], made.query_embedding.weight[:, :32])
    torch.testing.assert_close(content[0], made.query_embedding.weight[:, 32:])


def gradient_norm(output: LocationOutput, layer: int, of: Tensor) -> float:
    loss = output.boxes[layer].square().sum()
    (gradient,) = torch.autograd.grad(loss, [of], retain_graph=True, allow_unused=True)
    return 0.0 if gradient is None else float(gradient.norm())


@pytest.mark.slow
def test_refined_references_are_detached_and_the_initial_one_is_not() -> None:
    made = decoder()
    output = made(memory())
    branches = [branch[-1].weight for branch in made.box_branches]  # type: ignore[index]
    assert gradient_norm(output, 0, branches[0]) > 1e-4
    assert gradient_norm(output, 1, branches[1]) > 1e-4
    assert gradient_norm(output, 1, branches[0]) == 0
    assert gradient_norm(output, 0, made.reference_points.weight) > 1e-4


def test_a_layer_is_self_attention_cross_attention_and_feed_forward() -> None:
    made = decoder()
    layer = made.layers[0]
    source = memory()
    queries, position = torch.randn(2, 1, 7, 32, generator=torch.Generator().manual_seed(5)).unbind()
    references = torch.rand(1, 7, 4, 2, generator=torch.Generator().manual_seed(6))

    def norm(x: Tensor, number: int) -> Tensor:
        module = getattr(layer, f"norm{number}")
        return torch.layer_norm(x, (32,), module.weight, module.bias, 1e-5)

    with torch.no_grad():
        attention = layer.self_attention
        q, k, v = (
            torch.nn.functional.linear(x, weight, bias)
            for x, weight, bias in zip(
                (queries + position, queries + position, queries),
                attention.in_proj_weight.chunk(3),  # type: ignore[operator, union-attr]
                attention.in_proj_bias.chunk(3),  # type: ignore[operator, union-attr]
                strict=True,
            )
        )
        heads = [
            (a @ b.transpose(1, 2) / math.sqrt(8)).softmax(-1) @ c
            for a, b, c in zip(q.split(8, -1), k.split(8, -1), v.split(8, -1), strict=True)
        ]
        x = norm(queries + attention.out_proj(torch.cat(heads, -1)), 1)  # type: ignore[operator, union-attr]
        cross = layer.cross_attention(  # type: ignore[operator]
            x + position, references, source.tokens, source.shapes, source.padding_mask
        )
        x = norm(x + cross, 2)
        expected = norm(x + layer.feedforward(x), 3)  # type: ignore[operator]
        torch.testing.assert_close(layer(queries, position, references, source), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("things", [0, 1])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_there_may_be_no_or_one_thing_class(things: int) -> None:
    assert decoder(things)(memory()).class_logits.shape == (2, 1, 7, things)
