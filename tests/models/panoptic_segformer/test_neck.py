"""The neck, compared with a plain implementation of convolution and GroupNorm."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from panformer_cli.models.panoptic_segformer.neck import Neck, NeckLevel

CHANNELS = [6, 10, 14]


def features(size: tuple[int, int], batch: int = 2) -> list[Tensor]:
    torch.manual_seed(1)
    height, width = size
    scales = zip(CHANNELS, (4, 2, 1), strict=True)
    return [torch.randn(batch, channels, height * scale, width * scale) for channels, scale in scales]


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    grouped = x.reshape(batch, groups, -1)
    mean = grouped.mean(-1, keepdim=True)
    variance = (grouped - mean).square().mean(-1, keepdim=True)
    normalized = ((grouped - mean) / (variance + 1e-5).sqrt()).view(batch, channels, height, width)
    return normalized * weight[:, None, None] + bias[:, None, None]


def convolve(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """Return a zero-padded convolution, as a sum over the cells of the kernel."""
    size = kernel.shape[-1]
    _, _, height, width = x.shape
    padded = torch.zeros(*x.shape[:2], height + size - 1, width + size - 1)
    padded[..., size // 2 : size // 2 + height, size // 2 : size // 2 + width] = x
    total: Tensor | float = 0.0
    for row in range(size):
        for column in range(size):
            window = padded[..., row : row + height : stride, column : column + width : stride]
            total = total + torch.einsum("oc,bchw->bohw", kernel[..., row, column], window)
    assert isinstance(total, Tensor)
    return total


@pytest.mark.parametrize("size", [(3, 5), (4, 2), (1, 1)])
def test_the_neck_equals_the_plain_implementation(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    neck = Neck(CHANNELS, dim=64)
    for parameter in neck.parameters():
        torch.nn.init.normal_(parameter)
    inputs = features(size)
    outputs = neck(inputs)
    assert len(outputs) == 4
    for output, level, x, stride in zip(outputs, neck.levels, [*inputs, inputs[-1]], [1, 1, 1, 2], strict=True):
        assert isinstance(level, NeckLevel)
        expected = group_norm(convolve(x, level.conv.weight, stride), 32, level.norm.weight, level.norm.bias)
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
    assert outputs[3].shape[-2:] == (math.ceil(size[0] / 2), math.ceil(size[1] / 2))


def test_convolutions_have_no_bias_and_xavier_weights() -> None:
    neck = Neck(CHANNELS, dim=64)
    names = {name for name, _ in neck.named_parameters()}
    assert names == {
        f"levels.{level}.{part}" for level in range(4) for part in ("conv.weight", "norm.weight", "norm.bias")
    }
    for level, channels, cells in zip(neck.levels, [*CHANNELS, CHANNELS[-1]], [1, 1, 1, 9], strict=True):
        assert isinstance(level, NeckLevel)
        limit = math.sqrt(6 / (cells * (channels + 64)))
        assert 0.9 * limit < level.conv.weight.abs().max() <= limit
