"""What every backbone offers to the models that use it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor, nn

STRIDES = (8, 16, 32)
"""Of C3, C4 and C5, pixels."""
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Backbone(nn.Module, ABC):
    """Images to three feature maps, called C3, C4 and C5 (spec, section 3). `build.build_backbone` makes one.

    Attributes:
        name: `model.backbone` of a recipe.
        channels: of C3, C4, C5.
        strides: of C3, C4, C5, pixels.
        body: the part that ImageNet weights are for; its tensors have the names of timm's feature extractor.
    """

    strides = STRIDES

    def __init__(self, name: str, body: nn.Module, channels: list[int]) -> None:
        super().__init__()
        self.name = name
        self.body = body
        self.channels = channels
        self._frozen: list[nn.Module] = []

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Return C3, C4 and C5, each (B, channels, ceil(H / stride), ceil(W / stride)).

        Args:
            images: (B, 3, H, W) float, normalized.
        """

    def freeze(self, modules: Iterable[nn.Module]) -> None:
        """Keep parameters and statistics of some modules as they are, in training too."""
        for module in modules:
            module.requires_grad_(False)
            module.eval()
            self._frozen.append(module)

    def freeze_batch_norms(self) -> None:
        """Freeze every BatchNorm, whose running statistics then replace those of the batch."""
        self.freeze([module for module in self.modules() if isinstance(module, _BATCH_NORMS)])

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self
