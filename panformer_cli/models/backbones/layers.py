"""The layers of a backbone in the order of the forward pass, for layer-wise learning rates."""

from __future__ import annotations

from typing import Any

import torch

from panformer_cli.errors import PanformerError
from panformer_cli.models.backbones.backbone import Backbone
from panformer_cli.models.backbones.pretrained import in_our_names
from panformer_cli.models.backbones.timm_backbone import TimmBackbone
from panformer_cli.models.backbones.timm_import import timm

LEAST_LAYERS = 4
"""Minimum number of layers for layer-wise learning rates."""


def parameter_layers(backbone: Backbone) -> dict[str, int]:
    """Return the layer of each parameter of the backbone by name: 0 is the stem, the highest number the last layer.

    The layers are those that timm defines for the complete model; they are blocks, or stages where timm has no finer
    ones. Tokens and position embeddings belong to the stem. Parameters outside of timm's model, such as the norms of
    Swin's feature maps, belong to the last layer.

    Raises:
        PanformerError: timm defines no layers for this model, or too few.
    """
    architecture = backbone.architecture if isinstance(backbone, TimmBackbone) else None
    layers = layers_in_timm(architecture) if architecture is not None else {}
    own = [name for name, _ in backbone.body.named_parameters()]
    renamed = in_our_names(layers, own)
    numbers = sorted({renamed[name] for name in own if name in renamed})
    if len(numbers) < LEAST_LAYERS or any(name not in renamed for name in own):
        raise PanformerError(
            f"train.layer_decay is set, but the layers of the backbone {backbone.name} are unknown; set it to 1.0, or "
            "use another backbone, such as a ResNet, Swin, PVTv2 or timm/convnext_tiny.fb_in22k"
        )
    position = {number: index for index, number in enumerate(numbers)}
    found = {f"body.{name}": position[renamed[name]] for name in own}
    return {name: found.get(name, len(numbers) - 1) for name, _ in backbone.named_parameters()}


def layers_in_timm(architecture: str) -> dict[str, int]:
    """Return timm's number of the layer of each parameter of the complete model; empty if timm defines none."""
    with torch.device("meta"):
        model: Any = timm.create_model(architecture)
    if not hasattr(model, "group_matcher"):
        return {}
    groups: dict[int, list[str]] = timm.models.group_parameters(model, model.group_matcher(coarse=False))
    first = min(groups)
    # A parameter of no module is a token or an embedding. timm puts those that it does not list into the last layer.
    return {name: layer if "." in name else first for layer, names in groups.items() for name in names}
