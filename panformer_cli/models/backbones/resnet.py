"""ResNet, whose first stages are frozen in the published models."""

from __future__ import annotations

from torch import nn

from panformer_cli.models.backbones.timm_backbone import TimmBackbone

_STAGES = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))


class ResNet(TimmBackbone):
    """ResNet-18 to ResNet-101."""

    def freeze_stages(self, count: int) -> None:
        """Freeze the first `count` of stem, stage 1, ..., stage 4."""
        modules: list[nn.Module] = [self.body.get_submodule(name) for stage in _STAGES[:count] for name in stage]
        self.freeze(modules)
