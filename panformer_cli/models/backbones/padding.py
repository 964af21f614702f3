"""Padding and cropping at the bottom and on the right, for images of any size.

`torch.export` traces heights and widths as formulas. It cannot prove inequalities between them, and every size that
could decide something, such as the end of a slice or a dimension that may be 1, restricts the images that the exported
program takes. The forms here leave nothing to decide.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def ceil_div(size: int, divisor: int) -> int:
    """Return the quotient of two positive numbers, rounded up.

    `torch.export` simplifies this form where it is nested: `ceil_div(ceil_div(size, 4), 2)` becomes
    `ceil_div(size, 8)`. `-(-size // divisor)` would grow with every layer, and tracing would take many times as long.
    """
    return (size - 1) // divisor + 1


def pad_or_crop(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (B, C, H, W) as (B, C, *size): zeros are added at the bottom and on the right, or cells are cut off.

    A slice would have to be shown to end inside the map; negative padding crops without that.
    """
    height, width = maps.shape[-2:]
    return F.pad(maps, (0, size[1] - width, 0, size[0] - height))
