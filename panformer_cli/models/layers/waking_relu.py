"""A ReLU whose gradient can raise negative inputs (docs/model.md, "Dead masks")."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def relu(x: Tensor, waking_slope: float) -> Tensor:
    """Return the ReLU of `x`, with a gradient for negative inputs too.

    A mask that is 0 on all of its target has no gradient through a plain ReLU and never recovers. Here, a gradient that
    would raise a negative `x` is multiplied by `waking_slope` instead of dropped. A gradient that would lower it is
    dropped as usual, because the loss would not change and the weights would drift without limit. The value is that of
    a plain ReLU, so inference does not change.
    """
    if waking_slope == 0 or not torch.is_grad_enabled():
        return F.relu(x)
    woken: Tensor = _WakingReLU.apply(x, waking_slope)
    return woken


class _WakingReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, waking_slope: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.waking_slope = waking_slope
        return x.relu()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        (gradient,) = gradients
        return torch.where(x > 0, gradient, ctx.waking_slope * gradient.clamp(max=0)), None
