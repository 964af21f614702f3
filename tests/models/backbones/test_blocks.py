"""The blocks of a backbone, which can be checkpointed."""

from __future__ import annotations

import pytest
import torch

from panformer_cli.models.backbones.build import build_backbone
from panformer_cli.models.layers.recompute import recompute_in_backward


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("resnet18", "BasicBlock"),
        ("pvt_v2_b0", "OverlapPatchEmbed"),
        ("timm/convnext_atto", "ConvNeXtBlock"),
        ("timm/tf_efficientnet_lite0", "DepthwiseSeparableConv"),
    ],
)
def test_blocks_of_any_backbone_can_be_recomputed(name: str, first: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name, 0.0, 0, frozen_batch_norm=False).train()
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    assert type(backbone.blocks()[0]).__name__ == first
    inside = [id(part) for block in backbone.blocks() for part in block.modules()]
    assert len(set(inside)) == len(inside)
    results = []
    for _ in range(2):
        backbone.zero_grad()
        torch.manual_seed(2)
        sum(feature.square().mean() for feature in backbone(images)).backward()
        results.append([parameter.grad for parameter in backbone.parameters()])
        recompute_in_backward(backbone.blocks())
    for one, other in zip(*results, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
