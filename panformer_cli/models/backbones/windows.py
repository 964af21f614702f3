"""Swin's windows: which cells of a map attend to each other."""

from __future__ import annotations

import torch
from torch import Tensor

from panformer_cli.models.backbones.padding import ceil_div

MASKED = -100.0


class Windows:
    """The windows of a batch of maps, each padded to whole windows and then shifted up and to the left, as a ring.

    Cells move into the windows and back by an index. The usual views need dimensions that count windows. A small map
    has one window, and `torch.export` would restrict the images to those with as many.

    Args:
        maps: (B, H, W, C); only shape, dtype and device matter.
        side: height and width of a window, cells.
        shift: cells; 0, or half a window.

    Attributes:
        mask: (B * windows, cells, cells), `MASKED` between cells that only the shift has brought together; None without
            a shift.
    """

    def __init__(self, maps: Tensor, side: int, shift: int) -> None:
        self._batch, self._height, self._width, self._channels = maps.shape
        self._side, self._shift, self._device = side, shift, maps.device
        self._down, self._across = ceil_div(self._height, side), ceil_div(self._width, side)
        self._shape = (self._batch * self._down * self._across, side * side)  # windows, cells of each
        self._index = self._places(self._batch, self._height, self._width)
        self.mask = self._mask(maps.dtype) if shift else None

    def split(self, maps: Tensor) -> Tensor:
        """(B, H, W, C) to (B * windows, cells, C), zeros on the padding."""
        zeros = maps.new_zeros(self._shape[0] * self._shape[1], self._channels)
        cells = zeros.index_copy(0, self._index, maps.flatten(0, 2))
        return cells.view(*self._shape, self._channels)

    def merge(self, windows: Tensor) -> Tensor:
        """Undo `split`; the padding is dropped."""
        cells = windows.flatten(0, 1).index_select(0, self._index)
        return cells.view(self._batch, self._height, self._width, self._channels)

    def _places(self, batch: int, height: int, width: int) -> Tensor:
        """(batch * height * width,): where the cells of maps, row by row, are among the cells of all windows."""
        side, cells = self._side, self._side**2
        row = (torch.arange(height, device=self._device) - self._shift) % (self._down * side)
        column = (torch.arange(width, device=self._device) - self._shift) % (self._across * side)
        image = torch.arange(batch, device=self._device) * (self._down * self._across * cells)
        of_row = row // side * (self._across * cells) + row % side * side
        of_column = column // side * cells + column % side
        return (image[:, None, None] + of_row[:, None] + of_column).flatten()

    def _mask(self, dtype: torch.dtype) -> Tensor:
        rows, columns = self._down * self._side, self._across * self._side
        regions = (3 * self._regions(rows)[:, None] + self._regions(columns)).flatten()
        places = self._places(1, rows, columns)
        windows = torch.zeros_like(regions).index_copy(0, places, regions).expand(self._batch, -1)
        windows = windows.flatten().view(self._shape)
        apart = windows[:, :, None] != windows[:, None]
        return torch.zeros_like(apart, dtype=dtype).masked_fill_(apart, MASKED)

    def _regions(self, size: int) -> Tensor:
        """(size,) 0, 1 or 2: whole windows, the rest of the last window, what the shift brings to it from the start."""
        index = torch.arange(size, device=self._device)
        return (index >= size - self._side + self._shift).int() + 2 * (index < self._shift).int()
