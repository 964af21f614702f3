"""Other timm models as backbones: feature maps, freezing, stochastic depth, weights from files, folded BatchNorms."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers.drop import DropPath
from torch import Tensor, nn

from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.models.backbones.backbone import Backbone
from panformer_cli.models.backbones.build import build_backbone
from panformer_cli.models.backbones.pretrained import load_backbone_weights
from panformer_cli.models.layers.batch_norm_folding import fold_batch_norms
from tests.models.panoptic_segformer.small import images_of, scramble

FAMILIES = (
    "timm/convnext_atto",
    pytest.param("timm/tf_efficientnet_lite0", marks=pytest.mark.slow),
    "timm/regnety_002",
    "timm/mobilenetv3_small_050",
    pytest.param("timm/fastvit_t8", marks=pytest.mark.slow),
    pytest.param("timm/edgenext_xx_small", marks=pytest.mark.slow),
    "timm/cspnext_s",  # tensors named `model.…`
    "timm/mambaout_femto",  # channels last
    pytest.param("timm/swinv2_cr_tiny_ns_224", marks=pytest.mark.slow),
    pytest.param("timm/swinv2_tiny_window8_256", marks=pytest.mark.slow),  # channels last
)
every_family = pytest.mark.parametrize("name", FAMILIES)


def backbone_of(name: str, drop_path: float = 0.0, frozen_batch_norm: bool = False) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(name, drop_path, None, frozen_batch_norm)


@pytest.mark.slow
@every_family
@pytest.mark.parametrize("size", [(64, 96), (75, 101)], ids=str)
def test_feature_maps_have_the_expected_sizes(name: str, size: tuple[int, int]) -> None:
    backbone = backbone_of(name).eval()
    with torch.no_grad():
        features = backbone(images_of(2, size))
    for feature, channels, stride in zip(features, backbone.channels, (8, 16, 32), strict=True):
        assert feature.shape == (2, channels, *(math.ceil(side / stride) for side in size))
        assert feature.isfinite().all()
        assert feature.std() > 0


@pytest.mark.slow
@every_family
def test_the_gradient_reaches_all_parameters_and_pixels(name: str) -> None:
    """A parameter without a gradient would block distributed training."""
    backbone = backbone_of(name).train()
    images = images_of(2, (64, 96)).requires_grad_()
    torch.stack([feature.square().mean() for feature in backbone(images)]).sum().backward()
    assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None] == []
    assert images.grad is not None
    assert images.grad.abs().sum(dim=(0, 1)).gt(0).float().mean() > 0.9


def statistics_of(backbone: nn.Module) -> list[Tensor]:
    return [tensor.clone() for name, tensor in backbone.named_buffers() if name.endswith(("_mean", "_var"))]


@pytest.mark.parametrize("name", ["timm/tf_efficientnet_lite0", "timm/regnety_002"])
def test_frozen_batch_norms_keep_statistics_and_weights(name: str) -> None:
    for frozen in (True, False):
        backbone = backbone_of(name, frozen_batch_norm=frozen).eval().train()
        before = statistics_of(backbone)
        backbone(images_of(2, (64, 96)))
        assert len(before) > 40
        changed = [not torch.equal(a, b) for a, b in zip(before, statistics_of(backbone), strict=True)]
        assert any(changed) != frozen
        norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
        assert {parameter.requires_grad for norm in norms for parameter in norm.parameters()} == {not frozen}


def test_stochastic_depth_increases_to_its_rate() -> None:
    backbone = backbone_of("timm/convnext_atto", drop_path=0.2)
    rates = [module.drop_prob for module in backbone.modules() if isinstance(module, DropPath)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm/vgg11_bn", "timm/densenet121"])
def test_a_model_without_stochastic_depth_is_an_error(name: str) -> None:
    with pytest.raises(PanformerError) as caught:
        backbone_of(name, drop_path=0.1)
    assert str(caught.value) == (
        f"model.drop_path is 0.1, but the backbone {name} has no stochastic depth; set it to 0"
    )


def test_stages_of_other_models_cannot_be_frozen() -> None:
    with pytest.raises(PanformerError, match=r"model\.frozen_stages is 2, but only published ResNets .* set it to 0"):
        build_backbone("timm/convnext_atto", 0.0, 2, True)


@pytest.mark.slow
@every_family
def test_timm_classifier_and_extractor_files_give_the_same_features(name: str, tmp_path: Path) -> None:
    architecture = name.removeprefix("timm/")
    torch.manual_seed(1)
    classifier = timm.create_model(architecture, num_classes=3)
    save_file(classifier.state_dict(), tmp_path / "classifier.safetensors")
    first, second = backbone_of(name).eval(), backbone_of(name).eval()
    initial = {key: tensor.clone() for key, tensor in first.body.state_dict().items()}
    load_backbone_weights(first, str(tmp_path / "classifier.safetensors"))
    loaded = first.body.state_dict()
    given = {id(tensor): tensor for tensor in classifier.state_dict().values()}
    for key, tensor in loaded.items():
        assert any(tensor.shape == other.shape and torch.equal(tensor, other) for other in given.values()), key
    assert any(not torch.equal(tensor, initial[key]) for key, tensor in loaded.items())
    torch.save(loaded, tmp_path / "extractor.pth")
    load_backbone_weights(second, str(tmp_path / "extractor.pth"))
    with torch.no_grad():
        for one, other in zip(first(images_of(1, (64, 96))), second(images_of(1, (64, 96))), strict=True):
            assert torch.equal(one, other)


@pytest.mark.slow
def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("convnext_femto").state_dict(), tmp_path / "femto.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_backbone_weights(backbone_of("timm/convnext_atto"), str(tmp_path / "femto.safetensors"))
    assert "femto.safetensors: the file has stem_0.weight with a different shape" in str(caught.value)
    with pytest.raises(CheckpointError, match=r"the file lacks \d+ tensors .*; expected ImageNet weights of timm/regn"):
        load_backbone_weights(backbone_of("timm/regnety_002"), str(tmp_path / "femto.safetensors"))


@pytest.mark.slow
def test_a_model_without_pretrained_weights() -> None:
    with pytest.raises(CheckpointError) as caught:
        load_backbone_weights(backbone_of("timm/convnext_atto_rms"), "imagenet")
    assert str(caught.value).startswith("timm has no pretrained weights for convnext_atto_rms: use a local file with ")


@every_family
def test_folding_batch_norms_keeps_the_features(name: str) -> None:
    """Including models where timm puts the activation into the BatchNorm."""
    backbone = backbone_of(name).eval()
    scramble(backbone)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    images = images_of(1, (64, 96))
    with torch.no_grad():
        before = backbone(images)
        fold_batch_norms(backbone)
        for expected, actual in zip(before, backbone(images), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
