"""Backbones from timm that give C3, C4 and C5 (spec, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import timm
from torch import Tensor, nn

from panformer_cli.errors import PanformerError
from panformer_cli.models.backbones.swin import with_published_blocks


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

SWIN_PATCH = 4
"""Pixels; timm's Swin refuses inputs that are no multiple of it."""


class Backbone(nn.Module):
    """A timm feature pyramid, with the published freezing and output norms.

    name: a key of `BACKBONES`. drop_path: stochastic depth rate of the last block.
    frozen_stages: ResNet: how many of stem, stage 1, ... are not trained.
    frozen_batch_norm: ResNet: running statistics are used in training too, affine weights are not trained.

    Attributes:
        name: as given.
        channels: of C3, C4, C5.
    """

    def __init__(self, name: str, drop_path: float, frozen_stages: int, frozen_batch_norm: bool) -> None:
        super().__init__()
        self.name = name
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
