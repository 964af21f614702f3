"""TensorFlow's padding in a form that can be traced: the same results as timm's convolution, bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from panformer_cli.models.backbones.same_padding import TraceableConv2dSame, use_traceable_padding


@pytest.mark.parametrize("kernel", [2, 3, (5, 3)], ids=str)
@pytest.mark.parametrize("stride", [1, 2, (1, 2)], ids=str)
@pytest.mark.parametrize("dilation", [1, 2])
def test_results_are_those_of_timm(kernel: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    theirs = nn.Sequential(Conv2dSame(4, 6, kernel, stride, dilation=dilation, groups=2))
    ours = copy.deepcopy(theirs)
    use_traceable_padding(ours)
    assert isinstance(ours[0], TraceableConv2dSame)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    with torch.no_grad():
        for size in ((5, 5), (8, 9), (13, 6), (2, 3)):
            images = torch.randn(1, 4, *size)
            assert torch.equal(ours(images), theirs(images)), size


def test_a_kernel_that_is_smaller_than_its_stride_stays() -> None:
    """Its padding can be negative without `max`."""
    body = nn.Sequential(Conv2dSame(1, 1, 1, 2), nn.Conv2d(1, 1, 3))
    use_traceable_padding(body)
    assert [type(module) for module in body] == [Conv2dSame, nn.Conv2d]
