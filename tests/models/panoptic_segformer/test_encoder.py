"""References, padding and the order of operations in a layer, compared with loops and plain formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from panformer_cli.models.layers.common import LevelShapes
from panformer_cli.models.layers.deformable_attention import DeformableAttention
from panformer_cli.models.layers.feedforward import FeedForward
from panformer_cli.models.panoptic_segformer.encoder import (
    DeformableEncoder,
    DeformableEncoderLayer,
    reference_points,
    resize_padding_mask,
)
from tests.models.panoptic_segformer.small import scramble

SHAPES: LevelShapes = [(6, 8), (3, 4), (2, 2)]


def padding_of(*sizes: tuple[int, int]) -> Tensor:
    """Return padding masks of 48 x 64 canvases with images of these sizes."""
    padding = torch.ones(len(sizes), 48, 64, dtype=torch.bool)
    for mask, (height, width) in zip(padding, sizes, strict=True):
        mask[:height, :width] = False
    return padding


def encoder() -> DeformableEncoder:
    torch.manual_seed(0)
    layers = [
        DeformableEncoderLayer(DeformableAttention(16, 2, len(SHAPES), 2), FeedForward(16, 20, 0.0), 16, 0.0)
        for _ in range(2)
    ]
    made = DeformableEncoder(layers, 16, len(SHAPES))
    scramble(made)
    return made.eval()


def features(batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 16, *shape, generator=generator) for shape in SHAPES]


def test_padding_masks_are_resized_with_nearest_neighbor() -> None:
    padding = torch.rand(2, 48, 64, generator=torch.Generator().manual_seed(0)) < 0.5
    for height, width in [(6, 8), (5, 7), (1, 1)]:
        small = resize_padding_mask(padding, (height, width))
        for row in range(height):
            for column in range(width):
                expected = padding[:, row * 48 // height, column * 64 // width]
                assert torch.equal(small[:, row, column], expected)


def test_reference_points_are_cell_centers_in_the_valid_part_of_every_level() -> None:
    ratios = torch.tensor([[[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]], [[0.5, 5 / 6], [0.5, 1.0], [1.0, 1.0]]])
    points = reference_points(SHAPES, ratios)
    assert points.shape == (2, 6 * 8 + 3 * 4 + 2 * 2, 3, 2)
    for image in range(2):
        token = 0
        for level, (height, width) in enumerate(SHAPES):
            for row in range(height):
                for column in range(width):
                    x = (column + 0.5) / (width * ratios[image, level, 0].item())
                    y = (row + 0.5) / (height * ratios[image, level, 1].item())
                    for other in range(len(SHAPES)):
                        expected = torch.tensor([x, y]) * ratios[image, other]
                        torch.testing.assert_close(points[image, token, other], expected)
                    token += 1


@pytest.mark.slow
def test_the_memory_contains_padding_masks_and_valid_ratios() -> None:
    memory = encoder()(features(), padding_of((48, 64), (40, 32)))
    assert memory.shapes == SHAPES
    assert memory.tokens.shape == (2, 64, 16)
    finest = memory.padding_mask[1, :48].view(6, 8)
    assert not finest[:5, :4].any()
    assert finest[5:].all()
    assert finest[:, 4:].all()
    assert not memory.padding_mask[0].any()
    # Widths 4 of 8, 2 of 4, 1 of 2; heights 5 of 6, 3 of 3, 2 of 2, by the nearest pixel of each cell.
    expected = torch.tensor([[0.5, 5 / 6], [0.5, 1.0], [0.5, 1.0]])
    torch.testing.assert_close(memory.valid_ratios[1], expected)
    torch.testing.assert_close(memory.valid_ratios[0], torch.ones(3, 2))


def test_a_layer_has_residuals_and_post_norm() -> None:
    made = encoder()
    layer = made.layers[0]
    assert isinstance(layer, DeformableEncoderLayer)
    padding = torch.zeros(1, 64, dtype=torch.bool)
    tokens, position = torch.randn(2, 1, 64, 16, generator=torch.Generator().manual_seed(2)).unbind()
    references = reference_points(SHAPES, torch.ones(1, 3, 2))
    with torch.no_grad():
        attended = layer.attention(tokens + position, references, tokens, SHAPES, padding)
        middle = torch.layer_norm(tokens + attended, (16,), layer.norm1.weight, layer.norm1.bias, 1e-5)
        hidden = layer.feedforward.linear1(middle).clamp(min=0)
        last = middle + layer.feedforward.linear2(hidden)
        expected = torch.layer_norm(last, (16,), layer.norm2.weight, layer.norm2.bias, 1e-5)
        torch.testing.assert_close(layer(tokens, position, references, SHAPES, padding), expected)


def test_every_level_adds_a_learned_vector_to_its_sine_encoding() -> None:
    made = encoder()
    masks = [torch.zeros(1, *shape, dtype=torch.bool) for shape in SHAPES]
    with torch.no_grad():
        with_vectors = made.position(masks)
        vectors = made.level_embedding.clone()
        made.level_embedding.zero_()
        difference = with_vectors - made.position(masks)
    start = 0
    for level, (height, width) in enumerate(SHAPES):
        expected = vectors[level].expand(height * width, 16)
        torch.testing.assert_close(difference[0, start : start + height * width], expected)
        start += height * width


@pytest.mark.parametrize("image", [0, 1])
def test_valid_tokens_do_not_depend_on_the_padding(image: int) -> None:
    made, padding = encoder(), padding_of((48, 64), (40, 32))
    levels = features()
    masks = [resize_padding_mask(padding, shape)[:, None] for shape in SHAPES]
    changed = [torch.where(mask, 7.0, level) for mask, level in zip(masks, levels, strict=True)]
    with torch.no_grad():
        before, after = made(levels, padding), made(changed, padding)
    valid = ~before.padding_mask[image]
    torch.testing.assert_close(after.tokens[image, valid], before.tokens[image, valid], rtol=1e-5, atol=1e-5)
    assert bool((~valid).any()) == (image == 1)


@pytest.mark.parametrize("padded", [False, True])
def test_layers_in_chunks_give_the_same_result(monkeypatch: pytest.MonkeyPatch, padded: bool) -> None:
    layers, padding = encoder(), padding_of((48, 64), (40, 32) if padded else (48, 64))
    whole = layers(features(), padding).tokens  # with gradients, all tokens at once
    for at_once in (1, 7, 64, 1000):
        monkeypatch.setattr("panformer_cli.models.layers.chunked.TOKENS_AT_ONCE", at_once)
        with torch.no_grad():
            torch.testing.assert_close(layers(features(), padding).tokens, whole)
