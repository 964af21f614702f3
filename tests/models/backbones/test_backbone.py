"""Backbones: sizes and freezing."""

from __future__ import annotations

import math
import re

import pytest
import timm
import torch

from panformer_cli.errors import PanformerError
from panformer_cli.models.backbones.build import build_backbone
from panformer_cli.models.backbones.known import BACKBONES
from tests.conftest import REPOSITORY
from tests.models.panoptic_segformer.small import images_of, scramble

SMALL_BACKBONES = ("resnet18", "pvt_v2_b0", "swin_tiny")


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_returns_strides_8_16_32(name: str) -> None:
    # PVTv2's reduced attention has a kernel of 8 cells of stride 4: it needs more than 28 pixels.
    sizes = [(75, 101), (96, 64), (29, 29)] + ([] if name.startswith("pvt") else [(8, 8)])
    with torch.device("meta"):  # shapes only, so the large ones are quick too
        backbone = build_backbone(name, drop_path=0.1, frozen_stages=0, frozen_batch_norm=True).eval()
        for size in sizes:
            features = backbone(torch.zeros(2, 3, *size))
            assert [feature.shape[1] for feature in features] == backbone.channels
            for feature, stride in zip(features, (8, 16, 32), strict=True):
                assert feature.shape[0] == 2
                assert tuple(feature.shape[2:]) == tuple(math.ceil(side / stride) for side in size)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_BACKBONES)
def test_features_are_finite_at_odd_sizes(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name, drop_path=0.0, frozen_stages=0, frozen_batch_norm=True).eval()
    with torch.no_grad():
        features = backbone(images_of(1, (75, 101)))
    assert all(feature.isfinite().all() and feature.std() > 0 for feature in features)


@pytest.mark.slow
def test_swin_pads_the_image_with_zeros_at_the_right_and_bottom() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("swin_tiny", drop_path=0.0, frozen_stages=0, frozen_batch_norm=True).eval()
    image = images_of(1, (46, 57))
    padded = torch.zeros(1, 3, 48, 60)
    padded[..., :46, :57] = image
    with torch.no_grad():
        for ours, expected in zip(backbone(image), backbone(padded), strict=True):
            torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def after_one_step(frozen_stages: int, frozen_batch_norm: bool) -> set[str]:
    """Return the names of the tensors of a ResNet-18 that one training step changes."""
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", 0.0, frozen_stages, frozen_batch_norm)
    scramble(backbone)  # timm initializes residual branches with zero, which blocks gradients
    before = {name: tensor.clone() for name, tensor in backbone.body.state_dict().items()}
    backbone.eval().train()
    backbone.zero_grad()
    loss = torch.stack([feature.square().mean() for feature in backbone(images_of(2, (64, 64)))]).sum()
    loss.backward()
    torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1).step()
    return {name for name, tensor in backbone.body.state_dict().items() if not torch.equal(tensor, before[name])}


RESNET18 = set(timm.create_model("resnet18", features_only=True).state_dict())
BATCH_NORM = {name for name in RESNET18 if re.search(r"bn\d\.|downsample\.1\.", name)}
STEM_AND_STAGE_1 = {name for name in RESNET18 if name.startswith(("conv1.", "bn1.", "layer1."))}


@pytest.mark.parametrize(
    ("frozen_stages", "frozen_batch_norm", "frozen"),
    [
        pytest.param(0, False, set(), marks=pytest.mark.slow),
        (0, True, BATCH_NORM),
        pytest.param(2, False, STEM_AND_STAGE_1, marks=pytest.mark.slow),
        (2, True, STEM_AND_STAGE_1 | BATCH_NORM),
        pytest.param(1, True, {"conv1.weight"} | BATCH_NORM, marks=pytest.mark.slow),
    ],
)
def test_only_frozen_tensors_stay_unchanged(frozen_stages: int, frozen_batch_norm: bool, frozen: set[str]) -> None:
    assert after_one_step(frozen_stages, frozen_batch_norm) == RESNET18 - frozen


def test_with_published_freezing_only_convolutions_of_later_stages_are_trained() -> None:
    backbone = build_backbone("resnet18", 0.0, frozen_stages=2, frozen_batch_norm=True)
    trained = {name for name, parameter in backbone.body.named_parameters() if parameter.requires_grad}
    assert trained == {name for name in RESNET18 - STEM_AND_STAGE_1 - BATCH_NORM if name.endswith("weight")}


def test_only_resnets_can_freeze_stages() -> None:
    with pytest.raises(PanformerError, match=r"model\.frozen_stages is 1, but only published ResNets .* set it to 0"):
        build_backbone("pvt_v2_b0", 0.0, frozen_stages=1, frozen_batch_norm=True)


def test_the_reference_of_settings_names_every_backbone() -> None:
    text = (REPOSITORY / "panformer_cli" / "settings.py").read_text(encoding="utf-8")
    (listed,) = re.findall(r'backbone: str = .*?"""(.*?)"""', text, flags=re.S)
    assert re.findall(r"`(\w+)`", listed) == list(BACKBONES)
