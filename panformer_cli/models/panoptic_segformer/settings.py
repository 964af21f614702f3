"""Settings of Panoptic SegFormer: sizes of the network, and thresholds of merging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from panformer_cli.models.backbones.known import backbone_problems, published_frozen_stages
from panformer_cli.settings import InferenceSettings, ModelSettings, raise_together

FAMILY = "panoptic_segformer"


@dataclass(frozen=True)
class PanopticSegFormerSettings(ModelSettings):
    """Sizes of Panoptic SegFormer. The defaults are the published R-50 model (spec, sections 3 to 6)."""

    family: str = FAMILY
    embed_dim: int = 256
    """Channels of every token and query (C); a multiple of `heads`, 32 and 4."""
    heads: int = 8
    """Attention heads, in every attention."""
    feedforward_dim: int = 1024
    """Hidden channels of every feed-forward and mask decoder MLP."""
    points: int = 4
    """Sampling points per head and level of deformable attention."""
    encoder_layers: int = 6
    location_layers: int = 6
    thing_mask_layers: int = 4
    """Blocks of the thing mask decoder, the tail not counted."""
    stuff_mask_layers: int = 6
    """Blocks of the stuff mask decoder, the tail not counted."""
    thing_queries: int = 300
    dropout: float = 0.1
    """In the deformable encoder and the location decoder, 0..1; the mask decoders have none."""
    mask_bias: float | None = None
    """Initial bias of the last mask linear; None is torch's default, as published. About +0.5 keeps random masks
    alive."""
    mask_waking_slope: float = 0.0
    """Below zero, the mask decoders' ReLUs pass on gradients that would raise them, times this slope. 0 is as
    published; above 0 a mask that is 0 everywhere still learns. The forward pass does not depend on it."""

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
    """Thresholds of mask-wise merging (spec, section 7)."""

    top_k: int = 100
    """(query, class) pairs whose thing masks are decoded."""
    score_threshold: float = 0.25
    """A segment needs class score x mask quality^2 of at least this."""
    thing_overlap: float = 0.4
    """A thing is dropped when more than this share of its mask is already taken."""
    stuff_overlap: float = 0.2
    """The same for stuff."""

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
        """The lowest one that `evaluate tune` tries: it starts from these settings."""
        return min(*self.grid["score_threshold"], self.score_threshold)
