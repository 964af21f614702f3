"""The position encoding, compared with its formula cell by cell."""

from __future__ import annotations

import math

import pytest
import torch

from panformer_cli.models.layers.position_encoding import sine_position_encoding


def encoding_of(index: int, size: int, features: int) -> list[float]:
    """Return the features of one axis for cell `index` (from 0) of `size` valid cells."""
    angle = (index + 1 - 0.5) / (size + 1e-6) * 2 * math.pi
    values = []
    for pair in range(features // 2):
        phase = angle / 10000 ** (2 * pair / features)
        values += [math.sin(phase), math.cos(phase)]
    return values


@pytest.mark.parametrize(("height", "width", "valid"), [(6, 9, (6, 9)), (6, 9, (4, 5)), (1, 1, (1, 1)), (5, 3, (5, 1))])
def test_every_valid_cell_has_the_encoding_of_its_position(height: int, width: int, valid: tuple[int, int]) -> None:
    padding = torch.ones(2, height, width, dtype=torch.bool)
    padding[1, : valid[0], : valid[1]] = False
    padding[0] = False
    encodings = sine_position_encoding(padding, dim=12)
    assert encodings.shape == (2, height, width, 12)
    assert encodings.dtype == torch.float32
    for image, (rows, columns) in enumerate([(height, width), valid]):
        for y in range(rows):
            for x in range(columns):
                expected = torch.tensor(encoding_of(y, rows, 6) + encoding_of(x, columns, 6))
                torch.testing.assert_close(encodings[image, y, x], expected, rtol=0, atol=2e-5)


def test_padding_has_finite_encodings() -> None:
    padding = torch.ones(1, 4, 5, dtype=torch.bool)
    padding[:, :2, :3] = False
    assert sine_position_encoding(padding, dim=16).isfinite().all()
