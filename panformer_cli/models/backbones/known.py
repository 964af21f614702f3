"""The published backbones, and the validation of backbone settings. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from panformer_cli.settings import ModelSettings

TIMM = "timm/"
"""Prefix of the names of all other timm models."""
RESNET_STAGES = 5
"""Stem and four stages: the maximum of `model.frozen_stages`."""
PUBLISHED_FROZEN_STAGES = 2
"""Stem and stage 1, as in the published ResNets."""


@dataclass(frozen=True)
class KnownBackbone:
    """A published backbone in timm.

    Attributes:
        architecture: timm's name of the model.
        pretrained: timm's name of the model with its ImageNet weights.
        out_indices: timm's indices of C3, C4 and C5.
    """

    architecture: str
    pretrained: str
    out_indices: tuple[int, int, int]


BACKBONES = {
    "resnet18": KnownBackbone("resnet18", "resnet18.tv_in1k", (2, 3, 4)),
    "resnet50": KnownBackbone("resnet50", "resnet50.tv_in1k", (2, 3, 4)),
    "resnet101": KnownBackbone("resnet101", "resnet101.tv_in1k", (2, 3, 4)),
    "pvt_v2_b0": KnownBackbone("pvt_v2_b0", "pvt_v2_b0.in1k", (1, 2, 3)),
    "pvt_v2_b2": KnownBackbone("pvt_v2_b2", "pvt_v2_b2.in1k", (1, 2, 3)),
    "pvt_v2_b5": KnownBackbone("pvt_v2_b5", "pvt_v2_b5.in1k", (1, 2, 3)),
    "swin_tiny": KnownBackbone("swin_tiny_patch4_window7_224", "swin_tiny_patch4_window7_224.ms_in1k", (1, 2, 3)),
    "swin_large": KnownBackbone("swin_large_patch4_window7_224", "swin_large_patch4_window7_224.ms_in22k", (1, 2, 3)),
}


def published_frozen_stages(backbone: str) -> int:
    """Return the number of frozen stages of a backbone if `model.frozen_stages` is not set."""
    return PUBLISHED_FROZEN_STAGES if is_resnet(backbone) else 0


def is_resnet(backbone: str) -> bool:
    """Return whether a backbone is one of the published ResNets, whose stages can be frozen."""
    return backbone.startswith("resnet")


def has_batch_norm(backbone: str) -> bool | None:
    """Return whether a backbone has BatchNorm; None for a model that only timm knows."""
    return is_resnet(backbone) if backbone in BACKBONES else None


@dataclass(frozen=True)
class PublishedBackboneSettings(ModelSettings):
    """Settings of a family whose models freeze as many stages of their backbone as published, if nothing is set."""

    def __post_init__(self) -> None:
        if self.frozen_stages is None:  # runs and checkpoints record the number
            object.__setattr__(self, "frozen_stages", published_frozen_stages(self.backbone))
        super().__post_init__()


def backbone_problems(settings: ModelSettings) -> list[str]:
    """Return one message per invalid setting. `check_backbone_name` checks whether timm has the model."""
    problems = []
    name = settings.backbone
    if name not in BACKBONES and not (name.startswith(TIMM) and name != TIMM):
        close = get_close_matches(name, BACKBONES, n=1)
        guess = f"; did you mean {close[0]}?" if close else ""
        problems.append(
            f"model.backbone is {name!r}: expected one of {', '.join(BACKBONES)}, or {TIMM}MODEL for another timm "
            f"model, such as {TIMM}convnext_tiny.fb_in22k{guess}"
        )
    most = RESNET_STAGES if is_resnet(name) else 0
    if not problems and settings.frozen_stages is not None and settings.frozen_stages > most:
        problems.append(
            f"model.frozen_stages is {settings.frozen_stages}: expected 0 to {most} with the backbone {name}"
        )
    return problems
