"""TensorFlow's "same" padding of timm's convolutions (`tf_efficientnet_lite0` and others) for `torch.export`.

With stride s and kernel size k, the padding of a side of x pixels is max((ceil(x / s) - 1) s + k - x, 0). It depends on
the size of the image, so `torch.export` has it as a formula, in which that of the layer before is nested. With `max`
and a division of floating-point numbers, as in timm, nothing can be simplified, and tracing takes longer with every
layer. For k >= s, neither is needed.
"""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from panformer_cli.models.backbones.padding import ceil_div


class TraceableConv2dSame(Conv2dSame):
    """timm's convolution with the same padding as before, written without `max`."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""
        top, bottom = self._padding(x.shape[-2], 0)
        left, right = self._padding(x.shape[-1], 1)
        padded = F.pad(x, (left, right, top, bottom))
        return F.conv2d(padded, self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)

    def _padding(self, size: int, axis: int) -> tuple[int, int]:
        stride = self.stride[axis]
        total = (ceil_div(size, stride) - 1) * stride + _extent(self, axis) - size
        return total // 2, total - total // 2


def use_traceable_padding(body: nn.Module) -> None:
    """Let the convolutions of timm with "same" padding compute it in the form that can be traced, in place."""
    for module in body.modules():
        if type(module) is Conv2dSame and all(_extent(module, axis) >= module.stride[axis] for axis in (0, 1)):
            module.__class__ = TraceableConv2dSame  # the parameters and their names stay


def _extent(module: nn.Conv2d, axis: int) -> int:
    """Return how many pixels the kernel spans."""
    return (module.kernel_size[axis] - 1) * module.dilation[axis] + 1
