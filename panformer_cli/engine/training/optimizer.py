"""AdamW with the published parameter groups (docs/model.md, "Optimizer")."""

from __future__ import annotations

from torch.optim import AdamW

from panformer_cli.models.base import PanopticModel
from panformer_cli.settings import TrainSettings


def build_optimizer(model: PanopticModel, settings: TrainSettings) -> AdamW:
    """Return AdamW over the model's parameter groups, with weight decay on all of them.

    Each group has the key `base_lr`, which `set_learning_rate` scales.
    """
    groups = [
        {"params": group.parameters, "lr": settings.lr * group.lr_factor, "base_lr": settings.lr * group.lr_factor}
        for group in model.parameter_groups(settings)
    ]
    return AdamW(groups, weight_decay=settings.weight_decay, fused=True)
