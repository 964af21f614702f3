"""Small pieces that several parts of the model share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LevelShapes = list[tuple[int, int]]
"""(height, width) of each feature level, finest first."""


class FeedForward(nn.Module):
    """Linear, ReLU, Linear with dropout after both (spec, section 4). The residual is the caller's."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.dropout(F.relu(self.linear1(tokens)))
        output: Tensor = self.dropout(self.linear2(hidden))
        return output


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """log(x / (1 - x)) of values in 0..1, both sides kept at `eps` or more (spec, section 5)."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def relu(x: Tensor, backward_slope: float) -> Tensor:
    """ReLU whose gradient below zero is `backward_slope` instead of 0; the value is always that of a plain ReLU.

    A mask that is 0 on the whole of its target has no gradient through a plain ReLU and can never come back (spec,
    section 11); with a slope in the backward pass alone it can, and inference stays the published computation.
    """
    if backward_slope == 0 or not torch.is_grad_enabled():
        return F.relu(x)
    below = x.clamp(max=0)
    return F.relu(x) + backward_slope * (below - below.detach())


def xavier_matrices(module: nn.Module) -> None:
    """Xavier uniform for every weight of two or more dimensions below `module`; the others keep their values."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
