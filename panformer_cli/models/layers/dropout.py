"""Dropout that keeps less for the backward pass on a CPU: one byte per element, or nothing after a ReLU.

There, PyTorch keeps its random factors as floats. Values, gradients and random numbers are those of PyTorch's dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_KEPT: ContextVar[Callable[[Tensor, float], Tensor] | None] = ContextVar("kept", default=None)
"""Returns 1 for each element that dropout keeps, else 0; None for random numbers."""


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


class DropoutTape:
    """What dropout keeps in a forward pass on a CPU, so that the pass can run again without random numbers.

    There, random numbers take half of the time of an encoder layer. The tape takes a bit per element.
    """

    def __init__(self) -> None:
        self._bits: list[npt.NDArray[np.uint8]] = []

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record dropout in this context."""

        def draw(x: Tensor, p: float) -> Tensor:
            kept = _random(x, p)
            self._bits.append(np.packbits((kept > 0).numpy()))
            return kept

        with _source(draw):
            yield

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Repeat the recorded dropout, in the same order, in this context."""
        recorded = iter(self._bits)

        def read(x: Tensor, p: float) -> Tensor:
            del p
            bits = np.unpackbits(next(recorded), count=x.numel())
            return torch.empty_like(x).copy_(torch.from_numpy(bits).view(x.shape))

        with _source(read):
            yield


@contextmanager
def _source(source: Callable[[Tensor, float], Tensor]) -> Iterator[None]:
    token = _KEPT.set(source)
    try:
        yield
    finally:
        _KEPT.reset(token)


def has_random_dropout(module: nn.Module) -> bool:
    """Return whether a forward pass of a module in training draws random numbers for a `Dropout` on a CPU."""
    weight = next(module.parameters(), None)
    if weight is None or weight.device.type != "cpu":
        return False
    return any(isinstance(part, Dropout) and part.training and 0 < part.p < 1 for part in module.modules())


def _applies(x: Tensor, dropout: nn.Dropout) -> bool:
    is_random = dropout.training and 0 < dropout.p < 1 and x.numel() > 0
    return is_random and x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _factors(x: Tensor, p: float) -> Tensor:
    """Return 0 or 1 / (1 - p) for each element, with the random numbers of PyTorch's dropout."""
    return (_KEPT.get() or _random)(x, p).div_(1 - p)


def _random(x: Tensor, p: float) -> Tensor:
    return torch.empty_like(x).bernoulli_(1 - p)


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
