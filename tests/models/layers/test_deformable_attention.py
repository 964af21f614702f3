"""The inputs of the sampling in deformable attention, compared with plain loops. `sampling/` tests the sampling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from panformer_cli.models.layers.common import LevelShapes
from panformer_cli.models.layers.deformable_attention import DeformableAttention


class Recorder:
    """A `DeformableSampling` that records its inputs."""

    def __call__(self, values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
        self.values, self.locations, self.weights = values, locations, weights
        return torch.zeros(*locations.shape[:2], values.shape[2] * values.shape[3])


SHAPES: LevelShapes = [(5, 7), (3, 4)]
LENGTH = 5 * 7 + 3 * 4


def recorded(references: Tensor) -> tuple[Recorder, DeformableAttention, Tensor]:
    torch.manual_seed(0)
    recorder = Recorder()
    attention = DeformableAttention(8, heads=2, levels=2, points=3, sampling=recorder)
    query = torch.randn(1, 4, 8)
    attention(query, references, torch.randn(1, LENGTH, 8), SHAPES, torch.zeros(1, LENGTH, dtype=torch.bool))
    return recorder, attention, query


def test_offsets_from_a_point_are_in_cells_of_the_level() -> None:
    references = torch.rand(1, 4, 2, 2)
    recorder, attention, query = recorded(references)
    offsets = attention.sampling_offsets(query)[0]
    for q in range(4):
        for number in range(2 * 2 * 3):  # (head, level, point), x and y last
            head, level, point = number // 6, number // 3 % 2, number % 3
            height, width = SHAPES[level]
            x = references[0, q, level, 0] + offsets[q, 2 * number] / width
            y = references[0, q, level, 1] + offsets[q, 2 * number + 1] / height
            torch.testing.assert_close(recorder.locations[0, q, head, level, point], torch.stack([x, y]))


def test_offsets_from_a_box_are_in_half_sizes_per_point() -> None:
    references = torch.rand(1, 4, 2, 4)
    recorder, attention, query = recorded(references)
    offsets = attention.sampling_offsets(query)[0]
    for q in range(4):
        for number in range(2 * 2 * 3):
            head, level, point = number // 6, number // 3 % 2, number % 3
            cx, cy, w, h = references[0, q, level]
            x = cx + offsets[q, 2 * number] / 3 * w * 0.5
            y = cy + offsets[q, 2 * number + 1] / 3 * h * 0.5
            torch.testing.assert_close(recorder.locations[0, q, head, level, point], torch.stack([x, y]))


def test_weights_are_a_softmax_over_levels_and_points() -> None:
    recorder, attention, query = recorded(torch.rand(1, 4, 2, 2))
    raw = attention.attention_weights(query)[0].exp()  # (Q, heads * levels * points)
    for q in range(4):
        for head in range(2):
            mine = raw[q, 6 * head : 6 * head + 6]
            torch.testing.assert_close(recorder.weights[0, q, head].flatten(), mine / mine.sum())


def test_values_on_padding_are_zero() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(8, heads=2, levels=2, points=3)
    torch.nn.init.normal_(attention.value_proj.bias)
    memory, query, references = torch.randn(1, LENGTH, 8), torch.randn(1, 4, 8), torch.rand(1, 4, 2, 2)
    padding = torch.rand(1, LENGTH) < 0.5
    attended = attention(query, references, memory, SHAPES, padding)
    changed = torch.where(padding[..., None], torch.full_like(memory, 1e3), memory)
    torch.testing.assert_close(attention(query, references, changed, SHAPES, padding), attended, rtol=0, atol=0)
    assert not torch.allclose(attention(query, references, changed, SHAPES, ~padding), attended)
    # With padding only, not even the bias of the value projection contributes.
    nothing = attention(query, references, memory, SHAPES, torch.ones_like(padding))
    torch.testing.assert_close(nothing, attention.output_proj.bias.expand(1, 4, 8), rtol=0, atol=1e-7)


def test_initial_offsets_are_a_ring_of_eight_directions() -> None:
    attention = DeformableAttention(32, heads=8, levels=3, points=4)
    attention.reset_parameters()
    directions = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    bias = attention.sampling_offsets.bias.view(8, 3, 4, 2)
    for head, direction in enumerate(directions):
        for level in range(3):
            for point in range(4):
                expected = torch.tensor(direction, dtype=torch.float32) * (point + 1)
                torch.testing.assert_close(bias[head, level, point], expected, rtol=0, atol=1e-5)
    for zero in (attention.sampling_offsets.weight, attention.attention_weights.weight):
        assert not zero.any()
    for linear in (attention.attention_weights, attention.value_proj, attention.output_proj):
        assert not linear.bias.any()
    limit = math.sqrt(6 / (32 + 32))
    for linear in (attention.value_proj, attention.output_proj):
        assert 0.9 * limit < linear.weight.abs().max() <= limit
