"""Small functions that several parts of a model share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LevelShapes = list[tuple[int, int]]
"""(height, width) of each feature level, finest first."""


def may_be_true(mask: Tensor) -> bool:
    """Return False if no element is True and this is cheap to check (on a CPU, in eager mode); True otherwise."""
    return mask.device.type != "cpu" or torch.compiler.is_compiling() or bool(mask.any())


def is_eager_inference_on_cpu(tokens: Tensor) -> bool:
    """Return whether optimizations for CPUs apply: no gradients, and no compiler or exporter that traces the sizes."""
    return tokens.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Return log(x / (1 - x)) for x in 0..1, both clamped to at least `eps` (docs/model.md, "Location decoder")."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def xavier_matrices(module: nn.Module) -> None:
    """Initialize all parameters of `module` with two or more dimensions with Xavier uniform; keep the others."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
