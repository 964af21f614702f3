"""AdamW with the published groups and learning rates (spec, section 8)."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import AdamW

from panformer_cli.recipe import TrainRecipe

SLOW_PARTS = ("backbone", "sampling_offsets", "reference_points")
"""Parameters with one of these in their name learn at `train.slow_lr_factor`."""


def build_optimizer(model: nn.Module, recipe: TrainRecipe) -> AdamW:
    """AdamW over the trainable parameters, weight decay on all of them.

    Each group has the key `base_lr`, which `set_learning_rate` scales.
    """
    slow: list[nn.Parameter] = []
    fast: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (slow if any(part in name for part in SLOW_PARTS) else fast).append(parameter)
    slow_lr = recipe.lr * recipe.slow_lr_factor
    groups = [
        {"params": fast, "lr": recipe.lr, "base_lr": recipe.lr},
        {"params": slow, "lr": slow_lr, "base_lr": slow_lr},
    ]
    return AdamW(groups, weight_decay=recipe.weight_decay, fused=True)


def learning_rate_factor(recipe: TrainRecipe, step: int, steps_per_epoch: int) -> float:
    """What every learning rate is multiplied by at optimiser step `step`, counted from 0 over the whole run."""
    warmup = min(1.0, (step + 1) / (recipe.warmup_steps + 1))
    if recipe.schedule == "cosine":
        progress = step / total_steps(recipe, steps_per_epoch)
        return warmup * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    drops = sum(step // steps_per_epoch >= epoch for epoch in recipe.drop_epochs)
    return warmup * float(f"1e-{drops}")  # 0.1**2 is not 0.01


def total_steps(recipe: TrainRecipe, steps_per_epoch: int) -> int:
    """Optimiser steps of the whole run."""
    steps = recipe.epochs * steps_per_epoch
    return steps if recipe.max_steps is None else min(steps, recipe.max_steps)


def set_learning_rate(optimizer: AdamW, factor: float) -> None:
    """Every group's learning rate becomes its `base_lr` times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
