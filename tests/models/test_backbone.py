"""Backbones: sizes, what stays frozen, and weights from good and bad files."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.models.backbone import BACKBONES, Backbone, load_backbone_weights, read_tensors
from tests.models.small import images_of, scramble

SMALL_ONES = ("resnet18", "pvt_v2_b0", "swin_tiny")
Architecture = Callable[..., nn.Module]


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_gives_strides_8_16_32(name: str) -> None:
    # PVTv2's reduced attention has a kernel of 8 cells of stride 4: it needs more than 28 pixels.
    sizes = [(75, 101), (96, 64), (29, 29)] + ([] if name.startswith("pvt") else [(8, 8)])
    with torch.device("meta"):  # shapes only, so the large ones are quick too
        backbone = Backbone(name, drop_path=0.1, frozen_stages=0, frozen_batch_norm=True).eval()
        for size in sizes:
            features = backbone(torch.zeros(2, 3, *size))
            assert [feature.shape[1] for feature in features] == backbone.channels
            for feature, stride in zip(features, (8, 16, 32), strict=True):
                assert feature.shape[0] == 2
                assert tuple(feature.shape[2:]) == tuple(math.ceil(side / stride) for side in size)


@pytest.mark.parametrize("name", SMALL_ONES)
def test_features_are_finite_at_sizes_that_are_no_multiple_of_anything(name: str) -> None:
    torch.manual_seed(0)
    backbone = Backbone(name, drop_path=0.0, frozen_stages=0, frozen_batch_norm=True).eval()
    with torch.no_grad():
        features = backbone(images_of(1, (75, 101)))
    assert all(feature.isfinite().all() and feature.std() > 0 for feature in features)


def test_swin_pads_the_image_with_zeros_on_the_right_and_below() -> None:
    torch.manual_seed(0)
    backbone = Backbone("swin_tiny", drop_path=0.0, frozen_stages=0, frozen_batch_norm=True).eval()
    image = images_of(1, (46, 57))
    padded = torch.zeros(1, 3, 48, 60)
    padded[..., :46, :57] = image
    with torch.no_grad():
        for ours, expected in zip(backbone(image), backbone(padded), strict=True):
            torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def after_one_step(frozen_stages: int, frozen_batch_norm: bool) -> set[str]:
    """The tensors of a ResNet-18 that one training step has changed."""
    torch.manual_seed(0)
    backbone = Backbone("resnet18", 0.0, frozen_stages, frozen_batch_norm)
    scramble(backbone)  # timm's residual branches begin with a zero, behind which nothing learns
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
        (0, False, set()),
        (0, True, BATCH_NORM),
        (2, False, STEM_AND_STAGE_1),
        (2, True, STEM_AND_STAGE_1 | BATCH_NORM),
        (1, True, {"conv1.weight"} | BATCH_NORM),
    ],
)
def test_what_is_frozen_stays_and_the_rest_learns(
    frozen_stages: int, frozen_batch_norm: bool, frozen: set[str]
) -> None:
    assert after_one_step(frozen_stages, frozen_batch_norm) == RESNET18 - frozen


def test_the_published_freezing_leaves_only_convolutions_of_later_stages_to_train() -> None:
    backbone = Backbone("resnet18", 0.0, frozen_stages=2, frozen_batch_norm=True)
    trained = {name for name, parameter in backbone.body.named_parameters() if parameter.requires_grad}
    assert trained == {name for name in RESNET18 - STEM_AND_STAGE_1 - BATCH_NORM if name.endswith("weight")}


def test_only_resnets_freeze_stages() -> None:
    with pytest.raises(PanformerError, match=r"model\.frozen_stages is 1, but only ResNet .* set it to 0"):
        Backbone("pvt_v2_b0", 0.0, frozen_stages=1, frozen_batch_norm=True)


# Weights


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    """A torchvision ResNet-18 with made-up weights and statistics."""
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


@pytest.mark.parametrize("write", [write_plain, write_wrapped, write_safetensors])
def test_a_file_with_torchvision_names_gives_torchvision_features(
    write: Callable[[dict[str, Tensor], Path], Path], classifier: nn.Module, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    backbone = Backbone("resnet18", 0.0, frozen_stages=2, frozen_batch_norm=True).eval()
    images = images_of(1, (64, 96))
    with torch.no_grad():
        expected = torchvision_features(classifier, images)
        assert not torch.allclose(backbone(images)[2], expected[2], atol=1e-2)
        load_backbone_weights(backbone, str(write(classifier.state_dict(), tmp_path)))
        for ours, theirs in zip(backbone(images), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_none_loads_nothing() -> None:
    backbone = Backbone("resnet18", 0.0, 0, True)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    load_backbone_weights(backbone, "none")
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def refused(source: Path | str, name: str = "resnet18") -> str:
    """The message with which a backbone refuses a source; its weights have stayed."""
    backbone = Backbone(name, 0.0, 0, True)
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_backbone_weights(backbone, str(source))
    assert all(torch.equal(tensor, before[key]) for key, tensor in backbone.state_dict().items())
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("architecture", "fault"),
    [
        pytest.param(torchvision.models.squeezenet1_1, "lacks 100 tensors (conv1.weight, bn1.weight, ", id="other"),
        pytest.param(torchvision.models.resnet34, "is of a larger model: ", id="deeper"),
        pytest.param(torchvision.models.resnet50, "has layer1.0.conv1.weight of another shape", id="wider"),
    ],
)
def test_another_architecture_is_refused(architecture: Architecture, fault: str, tmp_path: Path) -> None:
    path = write_plain(architecture(weights=None).state_dict(), tmp_path)
    message = refused(path)
    assert str(path) in message
    assert fault in message
    assert "expected ImageNet weights of resnet18" in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.pth"
    message = refused(path)
    assert str(path) in message
    assert "no such file" in message


@pytest.mark.parametrize("write", [write_plain, write_safetensors])
@pytest.mark.parametrize("kept", [0, 40, 1000])
def test_a_truncated_file_is_called_damaged(
    write: Callable[[dict[str, Tensor], Path], Path], kept: int, classifier: nn.Module, tmp_path: Path
) -> None:
    path = write(classifier.state_dict(), tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    message = refused(path)
    assert str(path) in message
    assert "damaged" in message


class RunsCode:
    """Opens a file for writing when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_pickle_that_would_run_code_is_not_run(form: str, tmp_path: Path) -> None:
    trap, path = tmp_path / "the code ran", tmp_path / "evil.pth"
    content = {"state_dict": {"conv1.weight": RunsCode(trap)}}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    message = refused(path)
    assert str(path) in message
    assert "was not run" in message
    assert not trap.exists()


def test_the_trap_of_the_test_above_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(RunsCode(tmp_path / "trap"))).close()
    assert (tmp_path / "trap").exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, torch.zeros(2)])
def test_a_file_without_a_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"odd\.pth: the file holds no state dict"):
        read_tensors(tmp_path / "odd.pth")


def test_without_internet_the_message_names_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone("resnet18", 0.0, 0, True)
    asked = []

    def offline(name: str, **options: object) -> None:
        asked.append((name, options))
        raise ConnectionError("[Errno -3] Temporary failure in name resolution")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(CheckpointError) as caught:
        load_backbone_weights(backbone, "imagenet")
    assert asked == [("resnet18.tv_in1k", {"pretrained": True})]
    message = str(caught.value)
    assert "\n" not in message
    for part in ("resnet18.tv_in1k", "--set model.backbone_weights=FILE", "--set model.backbone_weights=none"):
        assert part in message


@pytest.mark.parametrize("name", BACKBONES)
def test_what_timm_downloads_has_a_place_for_every_tensor(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The classifier that timm would fill with ImageNet weights, without the download."""
    assert timm.is_model_pretrained(BACKBONES[name].pretrained)
    with torch.device("meta"):
        backbone = Backbone(name, 0.0, 0, True)
        model = timm.create_model(BACKBONES[name].pretrained)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: model)
    loaded: dict[str, Tensor] = {}
    monkeypatch.setattr(backbone.body, "load_state_dict", lambda state, strict: loaded.update(state))
    load_backbone_weights(backbone, "imagenet")
    assert set(loaded) == set(backbone.body.state_dict())
