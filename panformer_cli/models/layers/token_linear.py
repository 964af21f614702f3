"""An optimization for CPUs: a linear layer over many tokens that runs as the equivalent 1x1 convolution.

PyTorch uses MKL for linear layers and oneDNN for convolutions. On CPUs that are not from Intel, oneDNN is about twice
as fast in float32. Measured on an AMD CPU (docs/performance.md): a feed-forward of the encoder takes 57 ms instead of
121 ms, a 256 x 256 linear layer 7.2 ms instead of 15.8 ms, and a training step 0.84 of the time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from panformer_cli.models.layers.common import is_eager_inference_on_cpu


class TokenLinear(nn.Linear):
    """`nn.Linear` over many tokens that runs as a convolution on a CPU.

    It runs as a plain linear layer on other devices, in training with reduced precision, and in compiled or exported
    graphs.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, L, out) for tokens (B, L, in)."""
        if tokens.device.type != "cpu" or tokens.numel() == 0 or torch.compiler.is_compiling():
            return super().forward(tokens)
        if not torch.is_grad_enabled():
            return _convolve(tokens, self.weight, self.bias)
        if not _is_full_precision(tokens):
            return super().forward(tokens)
        output: Tensor = _TokenConvolution.apply(tokens, self.weight, self.bias)
        return output

    def transposed(self, tokens: Tensor) -> Tensor:
        """Return (B, out, L) for (B, L, in), contiguous where that makes matrix products that sum over `out` faster."""
        if is_eager_inference_on_cpu(tokens) and tokens.dtype != torch.float32:
            assert self.bias is not None
            weight, bias = self.weight.to(tokens.dtype), self.bias.to(tokens.dtype)[:, None]
            return torch.stack([torch.addmm(bias, weight, image.t()) for image in tokens])
        output: Tensor = self(tokens).transpose(1, 2)
        return output


class _TokenConvolution(torch.autograd.Function):
    """A linear layer over tokens whose forward and backward matrix products are convolutions."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(tokens, weight)
        # `.data`, because a view returned from here could not be modified in place.
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
"""Minimum batch size for which PyTorch uses oneDNN in a convolution's backward pass on one thread too."""


def _is_full_precision(tokens: Tensor) -> bool:
    """Return whether matrix products of these CPU tensors run in float32 and oneDNN is available."""
    return (
        tokens.dtype == torch.float32 and not torch.is_autocast_enabled("cpu") and torch.backends.mkldnn.is_available()
    )


def _convolve(tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return (B, L, out) for tokens (B, L, in)."""
    images, kernel = _as_images(tokens), weight[:, :, None, None]
    if _is_full_precision(tokens):  # on one thread `conv2d` would not choose oneDNN
        row: Tensor = torch.mkldnn_convolution(images, kernel, bias, [0, 0], [1, 1], [1, 1], 1)
    else:
        row = F.conv2d(images, kernel, bias)
    return row[:, :, 0].transpose(1, 2)


def _weight_gradient(tokens: Tensor, gradient: Tensor) -> Tensor:
    """Return (out, in) for (B, L, in) and (B, L, out): a convolution over `ROWS` images, a product for the rest."""
    tokens, gradient = tokens.flatten(0, 1), gradient.flatten(0, 1)
    even = len(tokens) // ROWS * ROWS
    total = gradient[even:].t() @ tokens[even:]
    if not even:
        return total
    inputs, outputs = (_as_images(part[:even].unflatten(0, (ROWS, -1))) for part in (tokens, gradient))
    one, zero = [1, 1], [0, 0]
    kernel = total[:, :, None, None]  # only its shape is used
    _, of_images, _ = torch.ops.aten.convolution_backward(
        outputs, inputs, kernel, None, one, zero, one, False, zero, 1, [False, True, False]
    )
    total += of_images[:, :, 0, 0]
    return total


def _as_images(tokens: Tensor) -> Tensor:
    """Return (B, L, C) as images (B, C, 1, L), channels last in memory like the tokens."""
    return tokens.transpose(1, 2)[:, :, None]
