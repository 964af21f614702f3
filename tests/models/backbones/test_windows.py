"""Windows by an index against padding, rolling and views."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from panformer_cli.models.backbones.windows import MASKED, Windows

SIDE = 4
SIZES = [(8, 4), (5, 7), (3, 2), (1, 9)]
by_size_and_shift = pytest.mark.parametrize(("size", "shift"), [(size, shift) for size in SIZES for shift in (0, 2)])


def by_views(maps: Tensor, shift: int) -> Tensor:
    """(B, H, W, C) to (B * windows, cells, C)."""
    maps = F.pad(maps, (0, 0, 0, -maps.shape[2] % SIDE, 0, -maps.shape[1] % SIDE)).roll((-shift, -shift), (1, 2))
    batch, rows, columns, channels = maps.shape
    cells = maps.view(batch, rows // SIDE, SIDE, columns // SIDE, SIDE, channels).transpose(2, 3)
    return cells.reshape(-1, SIDE**2, channels)


@by_size_and_shift
def test_windows_are_split_and_merged(size: tuple[int, int], shift: int) -> None:
    maps = torch.randn(2, *size, 3)
    windows = Windows(maps, SIDE, shift)
    assert torch.equal(windows.split(maps), by_views(maps, shift))
    assert torch.equal(windows.merge(windows.split(maps)), maps)


@by_size_and_shift
def test_cells_that_the_shift_moves_around_the_edge_are_masked(size: tuple[int, int], shift: int) -> None:
    maps = torch.zeros(2, *size, 1)
    mask = Windows(maps, SIDE, shift).mask
    if not shift:
        assert mask is None
        return
    rows, columns = (-(-side // SIDE) * SIDE for side in size)
    moved = torch.zeros(2, rows, columns, 2)  # whether a cell crosses the upper edge, and the left one
    moved[:, :shift, :, 0] = moved[:, :, :shift, 1] = 1
    windows = by_views(moved, shift)
    apart = (windows[:, :, None] != windows[:, None]).any(-1)
    assert mask is not None
    assert torch.equal(mask, torch.where(apart, MASKED, 0.0))
