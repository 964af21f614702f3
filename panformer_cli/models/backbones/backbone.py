"""The interface of a backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor, nn

STRIDES = (8, 16, 32)
"""Strides of C3, C4 and C5, in pixels."""
FINE_STRIDES = (4, *STRIDES)
"""Strides of C2 to C5, in pixels."""
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Backbone(nn.Module, ABC):
    """From images to feature maps: C3, C4 and C5 (docs/model.md, "Backbones"), or C2 to C5. See `build.build_backbone`.

    Attributes:
        name: value of `model.backbone` in a recipe.
        channels: numbers of channels of the feature maps.
        strides: strides of the feature maps, in pixels.
        body: the part that ImageNet weights can initialize. Its tensors have the names of timm's feature extractor.
    """

    strides: tuple[int, ...] = STRIDES

    def __init__(self, name: str, body: nn.Module, channels: list[int]) -> None:
        super().__init__()
        self.name = name
        self.body = body
        self.channels = channels
        self._frozen: list[nn.Module] = []

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps, finest first, each (B, channels, ceil(H / stride), ceil(W / stride)).

        Args:
            images: (B, 3, H, W) float, normalized.
        """

    def blocks(self) -> list[nn.Module]:
        """Return the modules that the body consists of, such as residual blocks. They do not contain each other."""
        found: list[nn.Module] = []
        for child in self.body.children():
            inner = _blocks_of(child)
            found += inner or ([child] if _has_children(child) else [])
        return found

    def freeze(self, modules: Iterable[nn.Module]) -> None:
        """Freeze the parameters and the running statistics of these modules, in training mode too."""
        for module in modules:
            module.requires_grad_(False)
            module.eval()
            self._frozen.append(module)

    @property
    def batch_norms(self) -> list[nn.Module]:
        """Every BatchNorm of the backbone."""
        return [module for module in self.modules() if isinstance(module, _BATCH_NORMS)]

    def freeze_batch_norms(self) -> None:
        """Freeze every BatchNorm, so that it uses its running statistics instead of those of the batch."""
        self.freeze(self.batch_norms)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


def _blocks_of(module: nn.Module) -> list[nn.Module]:
    """Return the modules in the outermost lists and sequences within `module`, single layers excluded."""
    if not isinstance(module, (nn.Sequential, nn.ModuleList)):
        return [block for child in module.children() for block in _blocks_of(child)]
    nested = (nn.Sequential, nn.ModuleList)
    found = [_blocks_of(child) if isinstance(child, nested) else [child] for child in module if _has_children(child)]
    return [block for blocks in found for block in blocks]


def _has_children(module: nn.Module) -> bool:
    """Return whether a module consists of layers; a normalization with an activation (timm) is one layer."""
    return next(module.children(), None) is not None and not isinstance(module, _BATCH_NORMS)
