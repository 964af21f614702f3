"""A linear layer whose classes all start at a small probability."""

from __future__ import annotations

import math

from torch import nn

PRIOR_PROBABILITY = 0.01
"""Every class starts at this probability (focal loss, section 4.1)."""


def prior_linear(dim: int, classes: int) -> nn.Linear:
    """A class branch: its bias makes every class start at `PRIOR_PROBABILITY`."""
    branch = nn.Linear(dim, classes)
    nn.init.constant_(branch.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
    return branch
