"""Loss functions on plain tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ALPHA = 0.25
GAMMA = 2.0
DICE_EPS = 1e-6


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the sigmoid focal loss of every element, in the shape of `logits` (Lin et al. 2017, equation 5).

    Args:
        logits: any shape.
        targets: 0 or 1, float, in the shape of `logits`.
    """
    probability = logits.sigmoid()
    wrong = torch.where(targets > 0, 1 - probability, probability)
    weight = torch.where(targets > 0, ALPHA, 1 - ALPHA) * wrong**GAMMA
    return weight * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def dice_loss(masks: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - 2 sum(p t) / (sum(p^2) + eps + sum(t^2) + eps), (..., N) (paper, equation 5; docs/model.md, "Losses").

    Args:
        masks: (..., N, H, W), 0 or more.
        targets: (N, H, W), 0..1.
    """
    common = torch.einsum("...nhw,nhw->...n", masks, targets)
    squares = masks.square().sum((-2, -1)) + DICE_EPS + targets.square().sum((-2, -1)) + DICE_EPS
    return 1 - 2 * common / squares


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (..., H, W) float masks bilinearly to (..., *size). There may be no masks."""
    if masks.numel() == 0:
        # Still a function of `masks`, so that every parameter gets a (zero) gradient, as DDP requires.
        return masks.sum() + masks.new_zeros(*masks.shape[:-2], *size)
    flat = masks.reshape(1, -1, *masks.shape[-2:])
    return F.interpolate(flat, size=size, mode="bilinear", align_corners=False).reshape(*masks.shape[:-2], *size)
