"""Learning rates: a pure function of the optimizer step, so that nothing has to be restored on resume."""

from __future__ import annotations

import math

from torch.optim import Optimizer

from panformer_cli.settings import TrainSettings


def learning_rate_factor(settings: TrainSettings, step: int, steps_per_epoch: int) -> float:
    """Return the factor of all learning rates at optimizer step `step`, counted from 0 over the whole run."""
    warmup = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    if settings.schedule == "cosine":
        progress = step / total_steps(settings, steps_per_epoch)
        return warmup * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    drops = sum(step // steps_per_epoch >= epoch for epoch in settings.drop_epochs)
    return warmup * float(f"1e-{drops}")  # 0.1**2 is not 0.01


def total_steps(settings: TrainSettings, steps_per_epoch: int) -> int:
    """Return the number of optimizer steps of the whole run."""
    steps = settings.epochs * steps_per_epoch
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


def set_learning_rate(optimizer: Optimizer, factor: float) -> None:
    """Set the learning rate of every group to its `base_lr` times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
