"""AdamW with the published parameter groups (docs/model.md, "Optimizer"), and options that divide them further."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import AdamW

from panformer_cli.models.base import PanopticModel
from panformer_cli.settings import TrainSettings

_DECAYING = (nn.Linear, _ConvNd, nn.MultiheadAttention, nn.Bilinear)
"""Layers whose weight matrices decay with `train.decay_norms_and_biases=false`."""

FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}
"""Types of devices with an AdamW that updates all parameters in one kernel; it computes the same on others, slower."""


def build_optimizer(model: PanopticModel, settings: TrainSettings) -> AdamW:
    """Return AdamW over the model's parameter groups.

    Each group has the key `base_lr`, which `set_learning_rate` scales. Weight decay is the same for all parameters,
    unless `train.decay_norms_and_biases` is false. `train.layer_decay` divides the groups by the backbone's layers.

    Raises:
        PanformerError: `train.layer_decay` cannot be used with the backbone.
    """
    factors = _layer_factors(model, settings.layer_decay)
    exempt = set() if settings.decay_norms_and_biases else _without_decay(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for group in model.parameter_groups(settings):
        for parameter in group.parameters:
            lr = settings.lr * group.lr_factor * factors.get(parameter, 1.0)
            weight_decay = 0.0 if parameter in exempt else settings.weight_decay
            groups.setdefault((lr, weight_decay), []).append(parameter)
    rows: list[dict[str, Any]] = [
        {"params": parameters, "lr": lr, "base_lr": lr, "weight_decay": weight_decay}
        for (lr, weight_decay), parameters in groups.items()
    ]
    devices = {parameter.device.type for row in rows for parameter in row["params"]}
    return AdamW(rows, weight_decay=settings.weight_decay, fused=devices <= FUSED_DEVICES)


def _layer_factors(model: PanopticModel, layer_decay: float) -> dict[nn.Parameter, float]:
    """Return the factor on the learning rate of each parameter of the backbone: `layer_decay` to the power of the
    number of layers from the parameter to the end of the backbone, 1 for the last layer. Empty without layer decay.
    """
    if layer_decay == 1:
        return {}
    # Imports timm, which is slow.
    from panformer_cli.models.backbones.layers import parameter_layers

    layers = parameter_layers(model.backbone)
    count = max(layers.values()) + 1
    parameters = dict(model.backbone.named_parameters())
    return {parameters[name]: layer_decay ** (count - layer) for name, layer in layers.items()}


def _without_decay(model: nn.Module) -> set[nn.Parameter]:
    """Return all parameters but the weight matrices of linear and convolutional layers.

    These are biases, the parameters of norms, embeddings, tokens, relative position biases and scales. Names say
    nothing about this: the norms of timm's models are called `norm1`, `bn`, `downsample.0` and so on.
    """
    return {
        parameter
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
        if parameter.ndim <= 1 or not isinstance(module, _DECAYING)
    }
