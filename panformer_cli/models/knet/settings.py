"""Settings of K-Net: sizes of the network, and the thresholds of its merging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from panformer_cli.models.backbones.known import BACKBONES, PublishedBackboneSettings, backbone_problems
from panformer_cli.setting_types import Fraction, Range
from panformer_cli.settings import InferenceSettings

Channels = Annotated[int, Range(1, 65536)]
FAMILY = "knet"


@dataclass(frozen=True)
class KNetSettings(PublishedBackboneSettings):
    """Sizes of K-Net. The defaults are the published R-50 model (docs/knet.md). Its models are for inference only."""

    family: str = FAMILY
    """Model family: `knet`."""
    embed_dim: Channels = 256
    """Number of channels of the pyramid and of all kernels (C). Range: a multiple of 32 and of `heads`."""
    heads: Annotated[int, Range(1, 1024)] = 8
    """Number of attention heads. Range: a divisor of `embed_dim`."""
    feedforward_dim: Channels = 2048
    """Number of hidden channels of the feed-forward layers."""
    stages: Annotated[int, Range(1, 100)] = 3
    """Number of kernel update stages."""
    thing_kernels: Annotated[int, Range(1, 100_000)] = 100
    """Number of thing kernels: the maximum number of objects per image. Stuff has one kernel per class."""

    def problems(self) -> list[str]:
        """Return one message for each problem that a range cannot express."""
        problems = backbone_problems(self)
        if not problems and self.backbone not in BACKBONES:
            problems.append(
                f"model.backbone is {self.backbone!r}: expected one of {', '.join(BACKBONES)}, since K-Net also needs "
                "a feature map at stride 4"
            )
        if self.embed_dim % 32 or (self.heads > 0 and self.embed_dim % self.heads):
            problems.append(
                f"model.embed_dim is {self.embed_dim}: expected a multiple of 32 (GroupNorm) and of "
                f"model.heads ({self.heads})"
            )
        return problems


@dataclass(frozen=True)
class WinnerSettings(InferenceSettings):
    """Thresholds that decide which kernels become segments (docs/knet.md, "Merging")."""

    score_threshold: Fraction = 0.3
    """Minimum score of a thing. Stuff has no minimum score."""
    won_threshold: Fraction = 0.6
    """Minimum number of pixels that a kernel wins, as a share of the pixels of its own mask."""

    grid: ClassVar[dict[str, tuple[float, ...]]] = {
        "score_threshold": tuple(step / 20 for step in range(1, 13)),
        "won_threshold": tuple(step / 10 for step in range(1, 10)),
    }
    predict_options: ClassVar[dict[str, tuple[str, ...]]] = {"threshold": ("score_threshold",)}
