"""Backbones from timm that give C3, C4 and C5 (spec, section 3)."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from panformer_cli.errors import PanformerError
from panformer_cli.models.backbones.known import BACKBONES, TIMM
from panformer_cli.models.backbones.swin import with_published_blocks

STRIDES = (8, 16, 32)
"""Of C3, C4 and C5, pixels."""
SWIN_PATCH = 4
"""Pixels; timm's Swin refuses inputs that are no multiple of it."""


class Backbone(nn.Module):
    """A timm feature pyramid, with the published freezing and output norms.

    Attributes:
        name: a key of `BACKBONES`, or `timm/<model>`.
        channels: of C3, C4, C5.
        strides: of C3, C4, C5, pixels.

    Args:
        name: as the attribute.
        drop_path: stochastic depth rate of the last block, 0..1.
        frozen_stages: ResNet: how many of stem, stage 1, ... are not trained.
        frozen_batch_norm: BatchNorm keeps its running statistics in training, and its affine weights are not trained.

    Raises:
        PanformerError: timm has no such model, or it gives no feature maps at strides 8, 16 and 32.
    """

    strides = STRIDES

    def __init__(self, name: str, drop_path: float, frozen_stages: int, frozen_batch_norm: bool) -> None:
        super().__init__()
        self.name = name
        known = BACKBONES.get(name)
        architecture = known.architecture if known else name.removeprefix(TIMM)
        indices = known.out_indices if known else feature_indices(architecture)
        self.is_swin = known is not None and architecture.startswith("swin")
        options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
        if self.is_swin:
            options["strict_img_size"] = False
        body: Any = timm.create_model(architecture, features_only=True, out_indices=indices, **options)
        self.body: nn.Module = body
        self.channels: list[int] = body.feature_info.channels()
        if self.is_swin:
            with_published_blocks(self.body)
            self.norms = nn.ModuleList([nn.LayerNorm(channels) for channels in self.channels])
        self._frozen = self._stages(frozen_stages) + (self._batch_norms() if frozen_batch_norm else [])
        for module in self._frozen:
            module.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalized images to C3, C4, C5: (B, channels, ~H/8.., ~W/8..)."""
        if self.is_swin:
            height, width = images.shape[-2:]
            images = nn.functional.pad(images, (0, -width % SWIN_PATCH, 0, -height % SWIN_PATCH))
        features: list[Tensor] = self.body(images)
        if self.is_swin:  # timm's Swin keeps channels last
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


def feature_indices(architecture: str) -> tuple[int, ...]:
    """timm's numbers of the feature maps at `STRIDES`; no weight is allocated.

    Raises:
        PanformerError: the model has no feature map at one of these strides.
    """
    with torch.device("meta"):
        body: Any = timm.create_model(architecture, features_only=True)
    reductions: list[int] = body.feature_info.reduction()
    if not set(STRIDES) <= set(reductions):
        raise PanformerError(
            f"model.backbone is {TIMM}{architecture}, whose feature maps have strides {reductions}; expected "
            f"{', '.join(map(str, STRIDES))}; choose another model"
        )
    indices: list[int] = [body.feature_info.out_indices[reductions.index(stride)] for stride in STRIDES]
    return tuple(indices)
