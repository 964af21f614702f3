"""Settings of Panoptic SegFormer: sizes of the network, and merging thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from panformer_cli.models.backbones.known import PublishedBackboneSettings, backbone_problems
from panformer_cli.setting_types import Count, Fraction, FractionBelowOne, Range
from panformer_cli.settings import InferenceSettings

Layers = Annotated[int, Range(1, 100)]
Channels = Annotated[int, Range(1, 65536)]
FAMILY = "panoptic_segformer"


@dataclass(frozen=True)
class PanopticSegFormerSettings(PublishedBackboneSettings):
    """Sizes of Panoptic SegFormer. The defaults are the published R-50 model (docs/model.md)."""

    family: str = FAMILY
    """Model family: `panoptic_segformer`."""
    embed_dim: Channels = 256
    """Number of channels of all tokens and queries (C). Range: a multiple of 32 and of `heads`."""
    heads: Annotated[int, Range(1, 1024)] = 8
    """Number of heads of every attention layer. Range: a divisor of `embed_dim`."""
    feedforward_dim: Channels = 1024
    """Number of hidden channels of all feed-forward layers and mask decoder MLPs."""
    points: Annotated[int, Range(1, 1024)] = 4
    """Number of sampling points of deformable attention, per head and level."""
    encoder_layers: Layers = 6
    """Number of layers of the deformable encoder."""
    location_layers: Layers = 6
    """Number of layers of the location decoder."""
    thing_mask_layers: Layers = 4
    """Number of blocks of the thing mask decoder, not counting the tail."""
    stuff_mask_layers: Layers = 6
    """Number of blocks of the stuff mask decoder, not counting the tail."""
    thing_queries: Annotated[int, Range(1, 100_000)] = 300
    """Number of learned thing queries (Q): the maximum number of objects per image in training."""
    dropout: FractionBelowOne = 0.1
    """Dropout rate of the encoder and the location decoder; the mask decoders have no dropout."""
    mask_bias: Annotated[float, Range(-100, 100)] | None = None
    """Initial bias of the last mask layer. Null: torch's default, as published. About 0.5 keeps the masks of random
    weights above 0 (docs/model.md, "Dead masks")."""
    mask_waking_slope: FractionBelowOne = 0.0
    """Slope for negative inputs in the backward pass of the mask decoders' ReLUs, for gradients that would raise them.
    0 is a plain ReLU, as published. Above 0, a mask that is 0 everywhere still learns. The forward pass does not change
    (docs/model.md, "Dead masks")."""

    parts: ClassVar[tuple[str, ...]] = ("encoder", "stuff_masks", "thing_masks", "location_decoder", "backbone")
    starting_only: ClassVar[tuple[str, ...]] = ("backbone_weights", "mask_bias")

    def problems(self) -> list[str]:
        """Return one message for each problem that a range cannot express."""
        problems = backbone_problems(self)
        if self.embed_dim % 32 or (self.heads > 0 and self.embed_dim % self.heads):
            problems.append(
                f"model.embed_dim is {self.embed_dim}: expected a multiple of 32 (GroupNorm) and of "
                f"model.heads ({self.heads})"
            )
        return problems


@dataclass(frozen=True)
class MergingSettings(InferenceSettings):
    """Thresholds of mask-wise merging (docs/model.md, "Inference and merging")."""

    top_k: Count = 100
    """Number of (query, class) pairs whose thing masks are decoded, per image. More than there are pairs means
    all."""
    score_threshold: Fraction = 0.25
    """Minimum score of a segment: class score times squared mask quality."""
    thing_overlap: Fraction = 0.4
    """Maximum share of a thing's mask that segments with higher scores may cover. A thing above it is dropped."""
    stuff_overlap: Fraction = 0.2
    """The same for stuff."""

    grid: ClassVar[dict[str, tuple[float, ...]]] = {
        "score_threshold": tuple(step / 20 for step in range(1, 13)),
        "thing_overlap": tuple(step / 10 for step in range(1, 10)),
        "stuff_overlap": tuple(step / 10 for step in range(1, 10)),
    }
    predict_options: ClassVar[dict[str, tuple[str, ...]]] = {
        "threshold": ("score_threshold",),
        "overlap": ("thing_overlap", "stuff_overlap"),
    }

    @property
    def lowest_score_threshold(self) -> float:
        """The lowest score threshold that `evaluate tune` tries when it starts from these settings."""
        return min(*self.grid["score_threshold"], self.score_threshold)
