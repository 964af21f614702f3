"""Pretrained weights from files with three naming schemes, and errors for files that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from panformer_cli.errors import CheckpointError
from panformer_cli.models.backbones import pretrained
from panformer_cli.models.backbones.build import build_backbone
from panformer_cli.models.backbones.known import BACKBONES
from panformer_cli.models.backbones.pretrained import load_backbone_weights
from panformer_cli.models.panoptic_segformer.official.names import from_official
from tests.models.panoptic_segformer.small import images_of
from tests.release_files import save_as_mmcv, stub_state

Architecture = Callable[..., nn.Module]


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    """Return a torchvision ResNet-18 with random weights and statistics."""
    torch.manual_seed(3)
    model: nn.Module = torchvision.models.resnet18(weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    model.eval()
    return model


def torchvision_features(model: Any, images: Tensor) -> list[Tensor]:
    x = model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(images)))))
    c3 = model.layer2(x)
    c4 = model.layer3(c3)
    return [c3, c4, model.layer4(c4)]


def write_plain(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save(state, folder / "plain.pth")
    return folder / "plain.pth"


def write_wrapped(state: dict[str, Tensor], folder: Path) -> Path:
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}
    torch.save(wrapped, folder / "wrapped.pth")
    return folder / "wrapped.pth"


def write_safetensors(state: dict[str, Tensor], folder: Path) -> Path:
    save_file(state, folder / "file.safetensors")
    return folder / "file.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_plain, write_wrapped, write_safetensors])
def test_a_file_with_torchvision_names_gives_torchvision_features(
    write: Callable[[dict[str, Tensor], Path], Path], classifier: nn.Module, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", 0.0, frozen_stages=2, frozen_batch_norm=True).eval()
    images = images_of(1, (64, 96))
    with torch.no_grad():
        expected = torchvision_features(classifier, images)
        assert not torch.allclose(backbone(images)[2], expected[2], atol=1e-2)
        load_backbone_weights(backbone, str(write(classifier.state_dict(), tmp_path)))
        for ours, theirs in zip(backbone(images), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_none_loads_nothing() -> None:
    backbone = build_backbone("resnet18", 0.0, 0, True)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    load_backbone_weights(backbone, "none")
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def refused(source: Path | str, name: str = "resnet18") -> str:
    """Return the error for a source that a backbone refuses, and check that the backbone did not change."""
    backbone = build_backbone(name, 0.0, 0, True)
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_backbone_weights(backbone, str(source))
    assert all(torch.equal(tensor, before[key]) for key, tensor in backbone.state_dict().items())
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "fault"),
    [
        pytest.param(torchvision.models.squeezenet1_1, "lacks 100 tensors (conv1.weight, bn1.weight, ", id="other"),
        pytest.param(torchvision.models.resnet34, "is of a larger model: ", id="deeper"),
        pytest.param(torchvision.models.resnet50, "has layer1.0.conv1.weight with a different shape", id="wider"),
    ],
)
def test_another_architecture_is_refused(architecture: Architecture, fault: str, tmp_path: Path) -> None:
    path = write_plain(architecture(weights=None).state_dict(), tmp_path)
    message = refused(path)
    assert str(path) in message
    assert fault in message
    assert "expected ImageNet weights of resnet18" in message


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.pth"
    message = refused(path)
    assert str(path) in message
    assert "no such file" in message


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_timm_weights_match_all_tensors_of_the_backbone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the classifier that timm would load ImageNet weights into, but without the download."""
    assert timm.is_model_pretrained(BACKBONES[name].pretrained)
    with torch.device("meta"):
        backbone = build_backbone(name, 0.0, 0, True)
        model = timm.create_model(BACKBONES[name].pretrained)
    monkeypatch.setattr(pretrained, "_pretrained_state", lambda _: model.state_dict())
    loaded: dict[str, Tensor] = {}
    monkeypatch.setattr(backbone.body, "load_state_dict", lambda state, strict: loaded.update(state))
    load_backbone_weights(backbone, "imagenet")
    assert set(loaded) == set(backbone.body.state_dict())


# Files of the reference implementations of PVTv2 and Swin


def imagenet_file(variant: str) -> dict[str, Tensor]:
    """Return a reference ImageNet checkpoint: the backbone of the official Panoptic SegFormer, and a classifier."""
    inside = {name.removeprefix("backbone."): tensor for name, tensor in stub_state(variant).items()}
    state = {name: tensor for name, tensor in inside.items() if not name.startswith(("bbox_head.", "neck."))}
    if variant == "swinl":  # the norm after each output is not part of the ImageNet model
        state = {name: tensor for name, tensor in state.items() if not name.startswith("norm")}
        state |= {"norm.weight": torch.ones(1536), "layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}
    width = 1536 if variant == "swinl" else 512
    return {**state, "head.weight": torch.zeros(1).expand(21841, width), "head.bias": torch.zeros(21841)}


def loaded_into(name: str, source: Path | str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Return the tensors that a backbone loads from `source`, by name. The backbone itself needs no memory."""
    with torch.device("meta"):
        backbone = build_backbone(name, 0.0, 0, True)
    loaded: dict[str, Tensor] = {}
    monkeypatch.setattr(backbone.body, "load_state_dict", lambda state, strict: loaded.update(state))
    load_backbone_weights(backbone, str(source))
    assert set(loaded) == set(backbone.body.state_dict())
    return loaded


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": state}], ids=["plain", "model"])
@pytest.mark.parametrize(("variant", "backbone"), [("pvtv2b5", "pvt_v2_b5"), ("swinl", "swin_large")])
def test_reference_files_of_pvt_and_swin(
    variant: str, backbone: str, wrap: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(wrap(imagenet_file(variant)), tmp_path / "reference.pth")
    loaded = loaded_into(backbone, tmp_path / "reference.pth", monkeypatch)
    expected = from_official(stub_state(variant))
    for name, tensor in loaded.items():
        torch.testing.assert_close(tensor, expected[f"backbone.body.{name}"], rtol=0, atol=0)


@pytest.mark.slow
def test_patch_merging_has_different_names_in_timm_and_the_reference(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """timm's `layers.1.downsample` is `layers.0.downsample` in the reference implementation."""
    with torch.device("meta"):
        shapes = {
            name: tensor.shape
            for name, tensor in timm.create_model("swin_tiny_patch4_window7_224").state_dict().items()
        }
    by_timm = {name: torch.tensor(float(number)).expand(shape) for number, (name, shape) in enumerate(shapes.items())}
    by_reference = {
        name.replace("layers.1.down", "layers.0.down").replace("layers.2.down", "layers.1.down")
        .replace("layers.3.down", "layers.2.down"): tensor
        for name, tensor in by_timm.items()
    }  # fmt: skip
    assert set(by_timm) != set(by_reference)
    for state, name in ((by_timm, "timm.pth"), (by_reference, "reference.pth")):
        torch.save(state, tmp_path / name)
    one, other = (loaded_into("swin_tiny", tmp_path / name, monkeypatch) for name in ("timm.pth", "reference.pth"))
    assert "layers_1.downsample.reduction.weight" in one
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "backbone", "fault"),
    [
        ("pvtv2b5", "pvt_v2_b2", "has stages_0.blocks.0.mlp.fc1.weight with a different shape"),
        ("pvtv2b5", "pvt_v2_b0", "has patch_embed.proj.weight with a different shape"),
        ("swinl", "swin_tiny", "has patch_embed.proj.weight with a different shape"),
        ("swinl", "pvt_v2_b5", "lacks "),
        ("pvtv2b5", "resnet50", "lacks "),
    ],
)
def test_a_file_of_a_different_size_is_refused(variant: str, backbone: str, fault: str, tmp_path: Path) -> None:
    torch.save(imagenet_file(variant), tmp_path / "reference.pth")
    message = refused(tmp_path / "reference.pth", backbone)
    assert f"reference.pth: the file {fault}" in message
    assert message.endswith(f"expected ImageNet weights of {backbone}")


@pytest.mark.slow
def test_a_checkpoint_of_a_complete_model_is_refused(tmp_path: Path) -> None:
    message = refused(save_as_mmcv(stub_state("r50"), tmp_path / "r50.pth"), "resnet50")
    assert "is a checkpoint of a complete model, which --init-from can use; expected ImageNet weights" in message
