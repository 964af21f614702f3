"""Dropout that keeps less for the backward pass on a CPU: one byte per element, or nothing after a ReLU.

There, PyTorch keeps its random factors as floats. Values, gradients and random numbers are those of PyTorch's dropout.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Dropout(nn.Dropout):
    """`nn.Dropout`, without `inplace`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with random elements set to 0 and the others divided by 1 - p, in training."""
        if not _applies(x, self):
            return F.dropout(x, self.p, self.training)
        output: Tensor = _Dropout.apply(x, self.p)
        return output

    def after_relu_(self, x: Tensor) -> Tensor:
        """Return dropout of the ReLU of `x`. `x` may be changed in place."""
        if not _applies(x, self):
            return F.dropout(x.relu_(), self.p, self.training)
        output: Tensor = _ReLUDropout.apply(x, self.p)
        return output


def _applies(x: Tensor, dropout: nn.Dropout) -> bool:
    is_random = dropout.training and 0 < dropout.p < 1 and x.numel() > 0
    return is_random and x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _factors(x: Tensor, p: float) -> Tensor:
    """Return 0 or 1 / (1 - p) for each element, with the random numbers of PyTorch's dropout."""
    return torch.empty_like(x).bernoulli_(1 - p).div_(1 - p)


def _factor(like: Tensor, p: float) -> Tensor:
    return like.new_ones(()).div_(1 - p)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        factors = _factors(x, p)
        ctx.save_for_backward(factors > 0)
        ctx.p = p
        return factors.mul_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return kept.to(gradients[0].dtype).mul_(_factor(gradients[0], ctx.p)).mul_(gradients[0]), None


class _ReLUDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        output = _factors(x, p).mul_(x.relu())
        ctx.save_for_backward(output)  # the next layer keeps it anyway; a factor above 1 cannot round it to 0
        ctx.p = p
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (output,) = ctx.saved_tensors
        scaled = gradients[0] * _factor(gradients[0], ctx.p)
        return scaled.masked_fill_((output > 0).logical_not_(), 0), None
