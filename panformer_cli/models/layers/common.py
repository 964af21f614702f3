"""Small pieces that several parts of the model share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LevelShapes = list[tuple[int, int]]
"""(height, width) of each feature level, finest first."""


class TokenLinear(nn.Linear):
    """A linear over many tokens.

    On a CPU it runs as the 1x1 convolution that it is: PyTorch gives linears to MKL and convolutions to oneDNN, and on
    processors that are not Intel's the second is twice as fast in float32. With gradients of lower precision it is a
    plain linear.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, in) -> (B, L, out)."""
        if tokens.device.type != "cpu" or tokens.numel() == 0 or torch.compiler.is_compiling():
            return super().forward(tokens)  # a compiler, or an exporter, chooses by itself
        if not torch.is_grad_enabled():
            return _convolve(tokens, self.weight, self.bias)
        if not _is_full_precision(tokens):
            return super().forward(tokens)
        output: Tensor = _TokenConvolution.apply(tokens, self.weight, self.bias)
        return output

    def transposed(self, tokens: Tensor) -> Tensor:
        """(B, L, in) -> (B, out, L), contiguous, as products that sum over `out` read it fastest."""
        if tokens.device.type == "cpu" and tokens.dtype != torch.float32 and not torch.is_grad_enabled():
            assert self.bias is not None
            weight, bias = self.weight.to(tokens.dtype), self.bias.to(tokens.dtype)[:, None]
            return torch.stack([torch.addmm(bias, weight, image.t()) for image in tokens])
        output: Tensor = self(tokens).transpose(1, 2)
        return output


class _TokenConvolution(torch.autograd.Function):
    """A linear over tokens whose three products are all convolutions."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(tokens, weight)
        # Not as the view that it is: views that come from here may not be changed in place.
        return _convolve(tokens, weight, bias).data

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        tokens, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        for_tokens, for_weight, for_bias = ctx.needs_input_grad
        return (
            _convolve(gradient, weight.t().contiguous(), None) if for_tokens else None,
            _weight_gradient(tokens, gradient) if for_weight else None,
            gradient.sum((0, 1)) if for_bias else None,
        )


ROWS = 16
"""PyTorch gives the backward pass of a 1x1 convolution to oneDNN on one thread too where it has that many images."""


def _is_full_precision(tokens: Tensor) -> bool:
    """Whether products of these CPU tensors are computed in float32, by oneDNN where it is asked to."""
    return (
        tokens.dtype == torch.float32 and not torch.is_autocast_enabled("cpu") and torch.backends.mkldnn.is_available()
    )


def _convolve(tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, L, in) -> (B, L, out)."""
    images, kernel = _as_images(tokens), weight[:, :, None, None]
    if _is_full_precision(tokens):  # on one thread `conv2d` would not choose oneDNN
        row: Tensor = torch.mkldnn_convolution(images, kernel, bias, [0, 0], [1, 1], [1, 1], 1)
    else:
        row = F.conv2d(images, kernel, bias)
    return row[:, :, 0].transpose(1, 2)


def _weight_gradient(tokens: Tensor, gradient: Tensor) -> Tensor:
    """(B, L, in) and (B, L, out) to (out, in): the tokens in `ROWS` equal images, and a product for what is left."""
    tokens, gradient = tokens.flatten(0, 1), gradient.flatten(0, 1)
    even = len(tokens) // ROWS * ROWS
    total = gradient[even:].t() @ tokens[even:]
    if not even:
        return total
    inputs, outputs = (_as_images(part[:even].unflatten(0, (ROWS, -1))) for part in (tokens, gradient))
    one, zero = [1, 1], [0, 0]
    kernel = total[:, :, None, None]  # only its shape is looked at
    _, of_images, _ = torch.ops.aten.convolution_backward(
        outputs, inputs, kernel, None, one, zero, one, False, zero, 1, [False, True, False]
    )
    total += of_images[:, :, 0, 0]
    return total


def _as_images(tokens: Tensor) -> Tensor:
    """(B, L, C) as images (B, C, 1, L), channels last in memory as tokens are."""
    return tokens.transpose(1, 2)[:, :, None]


class FeedForward(nn.Module):
    """Linear, ReLU, Linear with dropout after both (spec, section 4). The residual is the caller's."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = TokenLinear(dim, hidden_dim)
        self.linear2 = TokenLinear(hidden_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        hidden = self.dropout(self.linear1(tokens).relu_())
        output: Tensor = self.dropout(self.linear2(hidden))
        return output


def may_be_true(mask: Tensor) -> bool:
    """Whether any of the mask is True, as far as that is known without waiting for a GPU or fixing it in a graph."""
    return mask.device.type != "cpu" or torch.compiler.is_compiling() or bool(mask.any())


def cast_for_autocast(tokens: Tensor) -> Tensor:
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
