"""Learning rates: a pure function of the optimizer step, so that nothing has to be restored on resume."""

from __future__ import annotations

import math

from torch.optim import Optimizer

from panformer_cli.settings import TrainSettings

POLY_POWER = 0.9
ONE_CYCLE_START, ONE_CYCLE_RISE = 0.04, 0.3
"""Factor of the first step of `one_cycle`, and the share of the run in which it rises."""


def learning_rate_factor(settings: TrainSettings, step: int, steps_per_epoch: int) -> float:
    """Return the factor of all learning rates at optimizer step `step`, counted from 0 over the whole run of T steps.

    It is warmup * schedule. The warmup is min(1, (step + 1) / (warmup_steps + 1)). The schedules, with p = step / T and
    the floor m = `min_lr_factor`:

    - step: max(m, 0.1 ** (number of `drop_epochs` that have begun));
    - cosine: m + (1 - m) * (1 + cos(pi * p)) / 2;
    - poly: m + (1 - m) * (1 - p) ** 0.9;
    - one_cycle, with q = step / (T - 1) and a = max(m, 0.04): a + (1 - a) * (1 - cos(pi * q / 0.3)) / 2 up to q = 0.3,
      then m + (1 - m) * (1 + cos(pi * (q - 0.3) / 0.7)) / 2, which is m in the last step;
    - constant: 1.
    """
    warmup = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    return warmup * _schedule(settings, step, steps_per_epoch)


def _schedule(settings: TrainSettings, step: int, steps_per_epoch: int) -> float:
    total, floor = total_steps(settings, steps_per_epoch), settings.min_lr_factor
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "step":
        drops = sum(step // steps_per_epoch >= epoch for epoch in settings.drop_epochs)
        return max(floor, float(f"1e-{drops}"))  # 0.1**2 is not 0.01
    if settings.schedule == "one_cycle":
        progress = min(1.0, step / max(1, total - 1))
        if progress < ONE_CYCLE_RISE:
            return _between(1.0, max(floor, ONE_CYCLE_START), _half_cosine(progress / ONE_CYCLE_RISE))
        return _between(floor, 1.0, _half_cosine((progress - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE)))
    progress = min(1.0, step / total)
    return _between(floor, 1.0, (1 - progress) ** POLY_POWER if settings.schedule == "poly" else _half_cosine(progress))


def _between(low: float, high: float, share: float) -> float:
    """Return `low` for a share of 0, `high` for 1."""
    return low + (high - low) * share


def _half_cosine(progress: float) -> float:
    """Return a value that falls from 1 to 0 while `progress` rises from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def total_steps(settings: TrainSettings, steps_per_epoch: int) -> int:
    """Return the number of optimizer steps of the whole run."""
    steps = settings.epochs * steps_per_epoch
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


def set_learning_rate(optimizer: Optimizer, factor: float) -> None:
    """Set the learning rate of every group to its `base_lr` times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
