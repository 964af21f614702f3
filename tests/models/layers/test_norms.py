"""The eps of every normalization layer (docs/model.md), which outputs are too insensitive to show."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from panformer_cli.models.panoptic_segformer.build import build
from panformer_cli.models.panoptic_segformer.settings import MergingSettings, PanopticSegFormerSettings
from tests.golden.release import COCO_SIZED

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)
EPS = (
    # The first match is used.
    (r"(thing|stuff)_mask_decoder\.", 1e-6),
    (r"backbone\.body\.patch_embed\.norm|backbone\.body\.stages_\d\.downsample\.norm|.*\.attn\.norm$", 1e-5),  # PVTv2
    (r"backbone\.body\.stages_\d\.(norm|blocks\.\d+\.norm\d)$", 1e-6),  # PVTv2
    (r".*", 1e-5),  # Swin, ResNet, neck, encoder, location decoder
)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet50", "pvt_v2_b5", "swin_large"])
def test_every_norm_has_the_published_eps(backbone: str) -> None:
    with torch.device("meta"):
        settings = PanopticSegFormerSettings(backbone=backbone, frozen_stages=0)
        model = build(settings, MergingSettings(), COCO_SIZED, "auto")
    norms = {name: module for name, module in model.named_modules() if isinstance(module, NORMS)}
    assert len(norms) >= 60
    for name, norm in norms.items():
        expected = next(eps for pattern, eps in EPS if re.match(pattern, name))
        assert norm.eps == expected, f"{name}: {norm.eps}"


@pytest.mark.slow
def test_the_patterns_match_the_intended_layers() -> None:
    with torch.device("meta"):
        settings = PanopticSegFormerSettings(backbone="pvt_v2_b5", frozen_stages=0)
        model = build(settings, MergingSettings(), COCO_SIZED, "auto")
    names = [name for name, module in model.named_modules() if isinstance(module, NORMS)]
    counts = [sum(re.match(pattern, name) is not None for name in names) for pattern, _ in EPS[:3]]
    # Mask decoders: 4 blocks of 2 and 6 of 3. PVTv2-B5: 4 patch embeddings and 3 + 6 + 40 reduced attentions; 52 blocks
    # of 2 and 4 stages.
    assert counts == [26, 4 + 49, 2 * 52 + 4]
