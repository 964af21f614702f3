"""Padding and cropping of images and feature maps."""

from __future__ import annotations

import math

import pytest
import torch

from panformer_cli.models.backbones.padding import ceil_div, pad_or_crop


def test_a_quotient_is_rounded_up() -> None:
    for size in range(1, 40):
        for divisor in range(1, 12):
            assert ceil_div(size, divisor) == math.ceil(size / divisor)


@pytest.mark.parametrize("size", [(5, 7), (5, 6), (4, 7), (8, 9), (3, 9), (9, 2)], ids=str)
def test_zeros_are_added_or_cells_cut_off_at_the_bottom_and_on_the_right(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, 5, 7)
    expected = torch.zeros(2, 3, 9, 9)
    expected[:, :, :5, :7] = maps
    assert torch.equal(pad_or_crop(maps, size), expected[:, :, : size[0], : size[1]])
