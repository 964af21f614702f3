"""A linear layer for classification with a small initial probability."""

from __future__ import annotations

import math

from torch import nn

PRIOR_PROBABILITY = 0.01
"""Initial probability of every class (focal loss paper, section 4.1)."""


def prior_linear(dim: int, classes: int) -> nn.Linear:
    """Return a classification layer whose bias gives every class the initial probability `PRIOR_PROBABILITY`."""
    branch = nn.Linear(dim, classes)
    nn.init.constant_(branch.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
    return branch
