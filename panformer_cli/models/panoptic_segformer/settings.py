"""Settings of Panoptic SegFormer: sizes of the network, and merging thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from panformer_cli.models.backbones.known import backbone_problems, published_frozen_stages
from panformer_cli.settings import InferenceSettings, ModelSettings, raise_together

FAMILY = "panoptic_segformer"


@dataclass(frozen=True)
class PanopticSegFormerSettings(ModelSettings):
    """Sizes of Panoptic SegFormer. The defaults are the published R-50 model (docs/model.md)."""

    family: str = FAMILY
    """Model family: `panoptic_segformer`."""
    embed_dim: int = 256
    """Number of channels of all tokens and queries (C). Range: a multiple of 32 and of `heads`."""
    heads: int = 8
    """Number of heads of every attention layer. Range: 1 or more, a divisor of `embed_dim`."""
    feedforward_dim: int = 1024
    """Number of hidden channels of all feed-forward layers and mask decoder MLPs. Range: 1 or more."""
    points: int = 4
    """Number of sampling points of deformable attention, per head and level. Range: 1 or more."""
    encoder_layers: int = 6
    """Number of layers of the deformable encoder. Range: 1 or more."""
    location_layers: int = 6
    """Number of layers of the location decoder. Range: 1 or more."""
    thing_mask_layers: int = 4
    """Number of blocks of the thing mask decoder, not counting the tail. Range: 1 or more."""
    stuff_mask_layers: int = 6
    """Number of blocks of the stuff mask decoder, not counting the tail. Range: 1 or more."""
    thing_queries: int = 300
    """Number of learned thing queries (Q): the maximum number of objects per image in training. Range: 1 or more."""
    dropout: float = 0.1
    """Dropout rate of the encoder and the location decoder; the mask decoders have no dropout. Range: 0 to less than
    1."""
    mask_bias: float | None = None
    """Initial bias of the last mask layer. Null: torch's default, as published. About 0.5 keeps the masks of random
    weights above 0 (docs/model.md, "Dead masks"). Range: any number."""
    mask_waking_slope: float = 0.0
    """Slope for negative inputs in the backward pass of the mask decoders' ReLUs, for gradients that would raise them.
    0 is a plain ReLU, as published. Above 0, a mask that is 0 everywhere still learns. The forward pass does not change
    (docs/model.md, "Dead masks"). Range: 0 to less than 1."""

    starting_only: ClassVar[tuple[str, ...]] = ("backbone_weights", "mask_bias")

    def __post_init__(self) -> None:
        if self.frozen_stages is None:  # runs and checkpoints record the number
            object.__setattr__(self, "frozen_stages", published_frozen_stages(self.backbone))
        problems = backbone_problems(self)
        if self.embed_dim < 32 or self.embed_dim % 32 or (self.heads > 0 and self.embed_dim % self.heads):
            problems.append(
                f"model.embed_dim is {self.embed_dim}: expected a multiple of 32 (GroupNorm) and of "
                f"model.heads ({self.heads})"
            )
        counts = ("heads", "points", "thing_queries", "feedforward_dim")
        layers = ("encoder_layers", "location_layers", "thing_mask_layers", "stuff_mask_layers")
        for name in counts + layers:
            if getattr(self, name) < 1:
                problems.append(f"model.{name} is {getattr(self, name)}: expected 1 or more")
        for name in ("dropout", "mask_waking_slope"):
            if not 0 <= getattr(self, name) < 1:
                problems.append(f"model.{name} is {getattr(self, name)}: expected 0 or more and less than 1")
        raise_together(problems)


@dataclass(frozen=True)
class MergingSettings(InferenceSettings):
    """Thresholds of mask-wise merging (docs/model.md, "Inference and merging")."""

    top_k: int = 100
    """Number of (query, class) pairs whose thing masks are decoded, per image. Range: 1 or more. More than there
    are pairs means all."""
    score_threshold: float = 0.25
    """Minimum score of a segment: class score times squared mask quality. Range: 0 to 1."""
    thing_overlap: float = 0.4
    """Maximum share of a thing's mask that segments with higher scores may cover. A thing above it is dropped. Range: 0
    to 1."""
    stuff_overlap: float = 0.2
    """The same for stuff. Range: 0 to 1."""

    grid: ClassVar[dict[str, tuple[float, ...]]] = {
        "score_threshold": tuple(step / 20 for step in range(1, 13)),
        "thing_overlap": tuple(step / 10 for step in range(1, 10)),
        "stuff_overlap": tuple(step / 10 for step in range(1, 10)),
    }

    def __post_init__(self) -> None:
        problems = []
        if self.top_k < 1:
            problems.append(f"inference.top_k is {self.top_k}: expected 1 or more")
        for name in ("score_threshold", "thing_overlap", "stuff_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                problems.append(f"inference.{name} is {getattr(self, name)}: expected 0 to 1")
        raise_together(problems)

    @property
    def lowest_score_threshold(self) -> float:
        """The lowest score threshold that `evaluate tune` tries when it starts from these settings."""
        return min(*self.grid["score_threshold"], self.score_threshold)
