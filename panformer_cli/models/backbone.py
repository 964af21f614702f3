"""Backbones from timm that give C3, C4 and C5 (spec, section 3)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.models.swin import with_published_blocks


@dataclass(frozen=True)
class BackboneSpec:
    """How timm calls a backbone, and what to ask of it.

    pretrained: timm's name of the ImageNet weights. out_indices: timm's numbers of C3, C4, C5.
    """

    architecture: str
    pretrained: str
    out_indices: tuple[int, int, int]

    @property
    def is_swin(self) -> bool:
        return self.architecture.startswith("swin")


BACKBONES = {
    "resnet18": BackboneSpec("resnet18", "resnet18.tv_in1k", (2, 3, 4)),
    "resnet50": BackboneSpec("resnet50", "resnet50.tv_in1k", (2, 3, 4)),
    "resnet101": BackboneSpec("resnet101", "resnet101.tv_in1k", (2, 3, 4)),
    "pvt_v2_b0": BackboneSpec("pvt_v2_b0", "pvt_v2_b0.in1k", (1, 2, 3)),
    "pvt_v2_b2": BackboneSpec("pvt_v2_b2", "pvt_v2_b2.in1k", (1, 2, 3)),
    "pvt_v2_b5": BackboneSpec("pvt_v2_b5", "pvt_v2_b5.in1k", (1, 2, 3)),
    "swin_tiny": BackboneSpec("swin_tiny_patch4_window7_224", "swin_tiny_patch4_window7_224.ms_in1k", (1, 2, 3)),
    "swin_large": BackboneSpec("swin_large_patch4_window7_224", "swin_large_patch4_window7_224.ms_in22k", (1, 2, 3)),
}

BUFFERS = ("num_batches_tracked", "relative_position_index", "attn_mask")
"""Ends of names that hold no knowledge; files have them or not."""

SWIN_PATCH = 4
"""Pixels; timm's Swin refuses inputs that are no multiple of it."""


class Backbone(nn.Module):
    """A timm feature pyramid, with the published freezing and output norms.

    name: a key of `BACKBONES`. drop_path: stochastic depth rate of the last block.
    frozen_stages: ResNet: how many of stem, stage 1, ... are not trained.
    frozen_batch_norm: ResNet: running statistics are used in training too, affine weights are not trained.

    Attributes:
        channels: of C3, C4, C5.
    """

    def __init__(self, name: str, drop_path: float, frozen_stages: int, frozen_batch_norm: bool) -> None:
        super().__init__()
        self.spec = BACKBONES[name]
        options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
        if self.spec.is_swin:
            options["strict_img_size"] = False
        body: Any = timm.create_model(
            self.spec.architecture, features_only=True, out_indices=self.spec.out_indices, **options
        )
        self.body: nn.Module = body
        self.channels: list[int] = body.feature_info.channels()
        if self.spec.is_swin:
            with_published_blocks(self.body)
            self.norms = nn.ModuleList([nn.LayerNorm(channels) for channels in self.channels])
        self._frozen = self._stages(frozen_stages) + (self._batch_norms() if frozen_batch_norm else [])
        for module in self._frozen:
            module.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised images to C3, C4, C5: (B, channels, ~H/8.., ~W/8..)."""
        if self.spec.is_swin:
            height, width = images.shape[-2:]
            images = nn.functional.pad(images, (0, -width % SWIN_PATCH, 0, -height % SWIN_PATCH))
        features: list[Tensor] = self.body(images)
        if self.spec.is_swin:  # timm's Swin keeps channels last
            features = [norm(feature) for norm, feature in zip(self.norms, features, strict=True)]
            features = [feature.permute(0, 3, 1, 2).contiguous() for feature in features]
        return features

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def _batch_norms(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]

    def _stages(self, count: int) -> list[nn.Module]:
        """The modules of the stem and the first stages."""
        if not count:
            return []
        if not hasattr(self.body, "layer1"):
            raise PanformerError(
                f"model.frozen_stages is {count}, but only ResNet backbones can be frozen by stages; set it to 0"
            )
        names = ["conv1 bn1", "layer1", "layer2", "layer3", "layer4"][:count]
        return [getattr(self.body, name) for stage in names for name in stage.split()]


def load_backbone_weights(backbone: Backbone, source: str) -> None:
    """Fill the backbone with ImageNet weights.

    source: `imagenet` (through timm, which downloads and caches), `none` (nothing is loaded), or a file: a state dict
        of the same architecture by torchvision's or timm's names (.safetensors, or .pth read with weights_only).

    Raises:
        CheckpointError: the weights cannot be had or do not fit.
    """
    if source == "none":
        return
    state = _imagenet_state(backbone.spec) if source == "imagenet" else read_tensors(Path(source))
    own = backbone.body.state_dict()
    # timm's feature pyramid flattens `stages.0` to `stages_0`, `layers.0` (Swin) to `layers_0`.
    state = {_flattened(name): tensor for name, tensor in state.items()}
    problem = _misfit(own, state)
    if problem:
        raise CheckpointError(
            f"backbone weights {source}: the file {problem}; expected ImageNet weights of {backbone.spec.architecture}"
        )
    backbone.body.load_state_dict({name: state[name] for name in own if name in state}, strict=False)


def _misfit(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """What keeps `given` from being the tensors of a model that has `own`; None where they fit.

    A classifier's head may be there too. A deeper architecture has every tensor of ours and more in the same parts.
    """
    parts = {name.partition(".")[0] for name in own}
    missing = [name for name in own if name not in given and not name.endswith(BUFFERS)]
    surplus = [
        name for name in given if name not in own and name.partition(".")[0] in parts and not name.endswith(BUFFERS)
    ]
    wrong = [name for name in own if name in given and own[name].shape != given[name].shape]
    if missing:
        return f"lacks {len(missing)} tensors ({', '.join(missing[:3])} ...)"
    if wrong:
        return f"has {wrong[0]} of another shape"
    if surplus:
        return f"is of a larger model: {len(surplus)} tensors have no place ({', '.join(surplus[:3])} ...)"
    return None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file by name; a pickle may hold nothing but tensors and plain containers.

    Raises:
        CheckpointError: missing, damaged, or a pickle that wants to run code.
    """
    if not path.is_file():
        raise CheckpointError(f"weights {path}: no such file; give the path of a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"weights {path}: {_why_unreadable(error)}") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"weights {path}: the file holds no state dict; expected tensors by name")
    return {str(name).removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}


def _why_unreadable(error: Exception) -> str:
    if "Unsupported" in str(error) or "weights_only" in str(error):
        return "the pickle holds more than tensors and was not run; expected a file of weights only"
    return "the file is damaged or no weights file; download or copy it again"


def _imagenet_state(spec: BackboneSpec) -> dict[str, Tensor]:
    # The hub tells of every retry; one sentence at the end is enough.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        model = timm.create_model(spec.pretrained, pretrained=True)
    except Exception as error:  # timm, huggingface_hub and the network each raise their own
        raise CheckpointError(
            f"ImageNet weights {spec.pretrained} could not be downloaded ({type(error).__name__}): connect to the "
            "internet, or use a local file with --set model.backbone_weights=FILE, or start from random weights with "
            "--set model.backbone_weights=none"
        ) from error
    state: dict[str, Tensor] = model.state_dict()
    return state


def _flattened(name: str) -> str:
    head, _, rest = name.partition(".")
    index, _, tail = rest.partition(".")
    return f"{head}_{index}.{tail}" if head in ("stages", "layers") and index.isdigit() else name
