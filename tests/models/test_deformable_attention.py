"""Deformable attention against a plain loop and against hand-made numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from panformer_cli.models.deformable_attention import DeformableAttention, grid_sampling
from panformer_cli.models.layers import LevelShapes


def cell_value(level: Tensor, row: int, column: int) -> Tensor:
    """level: (H, W, D). Zero beyond the border."""
    height, width, channels = level.shape
    if 0 <= row < height and 0 <= column < width:
        return level[row, column]
    return torch.zeros(channels, dtype=level.dtype)


def bilinear(level: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The value at x, y in 0..1 of the level, cell centres at (i + 0.5) / size."""
    height, width, _ = level.shape
    column, row = x * width - 0.5, y * height - 0.5
    left, top = math.floor(column.item()), math.floor(row.item())
    right_share, bottom_share = column - left, row - top
    return (
        cell_value(level, top, left) * (1 - right_share) * (1 - bottom_share)
        + cell_value(level, top, left + 1) * right_share * (1 - bottom_share)
        + cell_value(level, top + 1, left) * (1 - right_share) * bottom_share
        + cell_value(level, top + 1, left + 1) * right_share * bottom_share
    )


def plain_loop(values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    batch, queries, heads, levels, points, _ = locations.shape
    starts = [sum(height * width for height, width in shapes[:level]) for level in range(levels)]
    rows = []
    for b in range(batch):
        for q in range(queries):
            for h in range(heads):
                total = torch.zeros(values.shape[-1], dtype=values.dtype)
                for level, (height, width) in enumerate(shapes):
                    cells = values[b, starts[level] : starts[level] + height * width, h].view(height, width, -1)
                    for p in range(points):
                        x, y = locations[b, q, h, level, p]
                        total = total + weights[b, q, h, level, p] * bilinear(cells, x, y)
                rows.append(total)
    return torch.stack(rows).view(batch, queries, -1)


def random_case(shapes: LevelShapes, reach: float) -> tuple[Tensor, LevelShapes, Tensor, Tensor]:
    """Two images, three queries, two heads of four channels, two points; locations in 0.5 +- reach."""
    generator = torch.Generator().manual_seed(5)
    length = sum(height * width for height, width in shapes)
    values = torch.randn(2, length, 2, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    locations = torch.rand(2, 3, 2, len(shapes), 2, 2, generator=generator, dtype=torch.float64)
    locations = ((locations - 0.5) * 2 * reach + 0.5).requires_grad_()
    weights = torch.randn(2, 3, 2, len(shapes), 2, generator=generator, dtype=torch.float64, requires_grad=True)
    return values, shapes, locations, weights


@pytest.mark.parametrize(
    ("shapes", "reach"),
    [
        pytest.param([(5, 7), (3, 4), (1, 2), (1, 1)], 0.5, id="four levels of odd sizes"),
        pytest.param([(5, 7), (3, 4)], 1.5, id="many points outside"),
        pytest.param([(4, 9)], 0.6, id="one level"),
    ],
)
def test_values_and_gradients_equal_a_plain_loop(shapes: LevelShapes, reach: float) -> None:
    case = random_case(shapes, reach)
    values, _, locations, weights = case
    ours, theirs = grid_sampling(*case), plain_loop(*case)
    assert ours.shape == (2, 3, 8)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    inputs = (values, locations, weights)
    for mine, other in zip(
        torch.autograd.grad(ours, inputs, direction), torch.autograd.grad(theirs, inputs, direction), strict=True
    ):
        assert other.abs().max() > 0.1
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


def test_the_outer_corner_is_zero_zero_and_cells_have_their_centre_in_the_middle() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).view(1, 6, 1, 1)  # two rows, three columns
    places = [(0.5 / 3, 0.25), (2.5 / 3, 0.75), (0.5, 0.5), (0.0, 0.0), (-0.2, 0.5), (3.0, 3.0)]
    locations = torch.tensor(places).view(1, 6, 1, 1, 1, 2)
    sampled = grid_sampling(values, [(2, 3)], locations, torch.ones(1, 6, 1, 1, 1)).flatten()
    # Centre of the first and the last cell; between rows; the corner is a quarter cell; outside by over half a cell.
    torch.testing.assert_close(sampled, torch.tensor([1.0, 6.0, 3.5, 0.25, 0.0, 0.0]), rtol=0, atol=1e-6)


class Recorder:
    """Stands in for the sampling, and remembers what it was asked for."""

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


def test_offsets_around_a_point_are_counted_in_cells_of_the_level() -> None:
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


def test_offsets_around_a_box_are_counted_in_half_boxes_a_point() -> None:
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


def test_weights_are_a_softmax_over_levels_and_points_together() -> None:
    recorder, attention, query = recorded(torch.rand(1, 4, 2, 2))
    raw = attention.attention_weights(query)[0].exp()  # (Q, heads * levels * points)
    for q in range(4):
        for head in range(2):
            mine = raw[q, 6 * head : 6 * head + 6]
            torch.testing.assert_close(recorder.weights[0, q, head].flatten(), mine / mine.sum())


def test_values_on_padding_count_as_zero() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(8, heads=2, levels=2, points=3)
    torch.nn.init.normal_(attention.value_proj.bias)
    memory, query, references = torch.randn(1, LENGTH, 8), torch.randn(1, 4, 8), torch.rand(1, 4, 2, 2)
    padding = torch.rand(1, LENGTH) < 0.5
    attended = attention(query, references, memory, SHAPES, padding)
    changed = torch.where(padding[..., None], torch.full_like(memory, 1e3), memory)
    torch.testing.assert_close(attention(query, references, changed, SHAPES, padding), attended, rtol=0, atol=0)
    assert not torch.allclose(attention(query, references, changed, SHAPES, ~padding), attended)
    # All is padding: not even the bias of the value projection is left.
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
