"""Backbones whose pretrained weights expect another mean and standard deviation (timm's pretrained configurations)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from panformer_cli.data.transforms import normalize
from panformer_cli.errors import PanformerError
from panformer_cli.models.backbones.build import build_backbone
from panformer_cli.models.backbones.normalization import Renormalization, differs_from_ours, pretrained_statistics
from panformer_cli.models.backbones.timm_backbone import TimmBackbone
from tests.models.panoptic_segformer.small import small_model

HALF = ((127.5,) * 3, (127.5,) * 3)


def test_images_are_normalized_as_by_hand() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    expected = torch.from_numpy((image.astype(np.float64) - 127.5) / 127.5).permute(2, 0, 1).float()
    torch.testing.assert_close(Renormalization(HALF)(normalize(image)[None])[0], expected, atol=1e-5, rtol=0)
    gray = np.full((4, 4, 3), 255, np.uint8)
    assert Renormalization(HALF)(normalize(gray)[None]).tolist() == pytest.approx(np.ones((1, 3, 4, 4)), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "half"),
    [
        ("resnet50", False),
        ("swin_tiny", False),
        ("timm/convnext_tiny.fb_in22k", False),
        ("timm/tf_efficientnet_lite0.in1k", True),
        ("timm/tf_efficientnet_lite0", True),
        ("timm/mixnet_s.ft_in1k", False),
    ],
)
def test_statistics_are_those_of_the_pretrained_weights(name: str, half: bool) -> None:
    statistics = pretrained_statistics(name)
    assert differs_from_ours(statistics) == half
    if half:
        assert statistics == HALF


def test_a_model_without_pretrained_weights_is_rejected() -> None:
    with pytest.raises(PanformerError, match=r"timm has no pretrained weights for timm/convnext_base\.none; set it to"):
        pretrained_statistics("timm/convnext_base.none")


@pytest.mark.slow
def test_only_the_setting_changes_what_the_body_gets() -> None:
    ours, theirs = (
        build_backbone("timm/tf_efficientnet_lite0", 0.0, None, True, kind) for kind in ("imagenet", "pretrained")
    )
    assert isinstance(ours, TimmBackbone) and isinstance(theirs, TimmBackbone)
    images = torch.randn(1, 3, 64, 64)
    seen: list[torch.Tensor] = []
    for backbone in (ours, theirs):
        backbone.body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        backbone.eval()(images)
    assert torch.equal(seen[0], images)
    assert torch.equal(seen[1], Renormalization(HALF)(images))
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_the_setting_is_part_of_the_model() -> None:
    model = small_model(backbone="timm/tf_efficientnet_lite0", backbone_normalization="pretrained")
    assert isinstance(model.backbone, TimmBackbone) and isinstance(model.backbone.renormalize, Renormalization)
