"""Small pieces that several parts of the model share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LevelShapes = list[tuple[int, int]]
"""(height, width) of each feature level, finest first."""


class TokenLinear(nn.Linear):
    """A linear over many tokens.

    On a CPU, where no gradient is wanted, it runs as the 1x1 convolution that it is: PyTorch gives linears to MKL and
    convolutions to oneDNN, and on processors that are not Intel's the second is twice as fast in float32.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, in) -> (B, L, out)."""
        if torch.is_grad_enabled() or tokens.device.type != "cpu" or tokens.numel() == 0:
            return super().forward(tokens)
        image = tokens.transpose(1, 2)[:, :, None]  # (B, in, 1, L), channels last in memory as tokens are
        row = F.conv2d(image, self.weight[:, :, None, None], self.bias)
        return row[:, :, 0].transpose(1, 2)


TOKENS_AT_ONCE = 2048
"""Of a feed-forward on the CPU without gradients; their hidden channels, 8 MB of float32, stay in the cache."""


class FeedForward(nn.Module):
    """Linear, ReLU, Linear with dropout after both (spec, section 4). The residual is the caller's."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = TokenLinear(dim, hidden_dim)
        self.linear2 = TokenLinear(hidden_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        if torch.is_grad_enabled() or tokens.device.type != "cpu":
            return self._apply_to(tokens)
        return torch.cat([self._apply_to(part) for part in tokens.split(TOKENS_AT_ONCE, dim=1)], dim=1)

    def _apply_to(self, tokens: Tensor) -> Tensor:
        hidden = self.dropout(self.linear1(tokens).relu_())
        output: Tensor = self.dropout(self.linear2(hidden))
        return output


def ready_for_products(tokens: Tensor) -> Tensor:
    """The tokens in the precision that autocast computes products in; unchanged without autocast or with gradients.

    Autocast converts them anew for every product otherwise. With gradients it has to: they are summed in float32 then.
    """
    device = tokens.device.type
    if torch.is_grad_enabled() or not torch.is_autocast_enabled(device):
        return tokens
    return tokens.to(torch.get_autocast_dtype(device))


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """log(x / (1 - x)) of values in 0..1, both sides kept at `eps` or more (spec, section 5)."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def relu(x: Tensor, waking_slope: float) -> Tensor:
    """ReLU; below zero, a gradient that would raise `x` is passed on, times `waking_slope`, instead of dropped.

    A mask that is 0 on the whole of its target has no gradient through a plain ReLU and can never come back (spec,
    section 11). The value is always that of a plain ReLU, so inference stays the published computation. A gradient that
    would lower `x` further is dropped as usual: it changes nothing that the loss sees, and passed on it would drive
    the weights away without end.
    """
    if waking_slope == 0:
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


def xavier_matrices(module: nn.Module) -> None:
    """Xavier uniform for every weight of two or more dimensions below `module`; the others keep their values."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
