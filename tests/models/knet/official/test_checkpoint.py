"""Which K-Net a file has, and why others are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from panformer_cli.engine.checkpoints.official import find_format
from panformer_cli.errors import CheckpointError
from panformer_cli.models.official import OfficialModel
from tests.release_files import stub_state

State = dict[str, Tensor]
PATH = Path("model.pth")
ONE = torch.zeros(1)


def recognize(state: State) -> OfficialModel:
    family, official = find_format(state, PATH)
    assert family == "knet"
    return official.describe(state, PATH)


def refused(state: State) -> str:
    with pytest.raises(CheckpointError) as caught:
        recognize(state)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without(state: State, *parts: str) -> State:
    return {name: tensor for name, tensor in state.items() if not any(part in name for part in parts)}


@pytest.mark.parametrize(
    ("variant", "backbone", "recipe"),
    [
        ("knet_r50", "resnet50", "knet_r50"),
        ("knet_r101", "resnet101", "knet_r101"),
        ("knet_swinl", "swin_large", "knet_swinl"),
    ],
)
def test_the_published_variants(variant: str, backbone: str, recipe: str) -> None:
    assert recognize(stub_state(variant)) == OfficialModel(backbone, recipe, 133, None)


@pytest.mark.parametrize(
    "parts",
    [
        ("rpn_head.init_kernels", "backbone.conv1"),
        ("mask_head.0.", "rpn_head.conv_seg.weight"),
        ("fc_cls", "backbone.layer4"),
        ("conv_seg", "localization_fpn", "neck."),
        ("layer3.5.", "layer2.0.conv1"),
        ("roi_head.",),
        ("fc_cls", "conv_seg"),
    ],
)
def test_a_file_with_missing_tensors_is_still_recognized(parts: tuple[str, ...]) -> None:
    """Loading its weights then lists them."""
    model = recognize(without(stub_state("knet_r50"), *parts))
    assert (model.backbone, model.num_classes) == ("resnet50", 133)


def test_other_numbers_of_classes_come_from_the_shapes() -> None:
    state = stub_state("knet_swinl")
    for name in state:
        if "fc_cls" in name or "conv_seg" in name:
            state[name] = torch.zeros(19, *state[name].shape[1:])
    assert recognize(state) == OfficialModel("swin_large", "knet_swinl", 19, None)


def deformable() -> State:
    return {**stub_state("knet_r101"), "backbone.layer2.0.conv2.conv_offset.weight": ONE}


def instance() -> State:
    state = stub_state("knet_r50")
    for name in state:
        if "fc_cls" in name or "conv_seg" in name:
            state[name] = state[name][:80]
    return state


def of_another_width() -> State:
    state = stub_state("knet_swinl")
    return {**state, "backbone.patch_embed.projection.weight": torch.zeros(128, 3, 4, 4)}


REFUSED: dict[str, tuple[Callable[[], State], str]] = {
    "deformable": (
        deformable,
        "checkpoint model.pth is a K-Net with deformable convolutions in its backbone "
        "(backbone.layer2.0.conv2.conv_offset.weight), which panformer does not support; use one without, such as "
        "knet_r101",
    ),
    "instance": (
        instance,
        "checkpoint model.pth is a K-Net for instance segmentation: it has 80 classes, COCO's things, and no stuff; "
        "use a panoptic one, named knet_s3_*_coco-panoptic_*.pth",
    ),
    "semantic": (
        lambda: {"backbone.conv1.weight": ONE, "decode_head.kernel_generate_head.conv_seg.weight": ONE},
        "checkpoint model.pth is a K-Net for semantic segmentation, which finds no objects; use a panoptic one, named "
        "knet_s3_*_coco-panoptic_*.pth",
    ),
    "no backbone": (
        lambda: without(stub_state("knet_r50"), "backbone."),
        "checkpoint model.pth is a K-Net without a backbone; expected tensors of a ResNet (backbone.layer1.0. ...) or "
        "a Swin (backbone.stages.0.blocks.0. ...)",
    ),
    "Swin-B": (
        of_another_width,
        "checkpoint model.pth is a K-Net with a Swin of width 128 and 2, 2, 18, 2 blocks, which panformer does not "
        "support; expected one of resnet50, resnet101, swin_large",
    ),
    "ResNet-152": (
        lambda: {**stub_state("knet_r50"), **{f"backbone.layer3.{n}.conv1.weight": ONE for n in range(36)}},
        "checkpoint model.pth is a K-Net with a ResNet of width 64 and 3, 4, 36, 3 blocks, which panformer does not "
        "support; expected one of resnet50, resnet101, swin_large",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_variants_are_refused_by_name(case: str) -> None:
    state, expected = REFUSED[case]
    if case == "semantic":
        with pytest.raises(CheckpointError) as caught:
            find_format(state(), PATH)
        assert str(caught.value) == expected
    else:
        assert refused(state()) == expected
