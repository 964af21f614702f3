"""Recognize official checkpoints and their variants by names and shapes, and refuse other files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor

from panformer_cli.engine.checkpoints.official import find_format
from panformer_cli.errors import CheckpointError
from panformer_cli.models.backbones.known import BACKBONES
from panformer_cli.models.official import OfficialModel
from panformer_cli.models.panoptic_segformer.official.checkpoint import RECIPES, VARIANTS
from panformer_cli.recipe_io import load_recipe
from tests.release_files import stub_state

PATH = Path("model.pth")
State = dict[str, Tensor]
ONE = torch.zeros(1)


def recognize(state: State, path: Path) -> OfficialModel:
    _, official = find_format(state, path)
    return official.describe(state, path)


@pytest.mark.parametrize(
    ("variant", "backbone"),
    [("r50", "resnet50"), ("r101", "resnet101"), ("pvtv2b5", "pvt_v2_b5"), ("swinl", "swin_large")],
)
def test_the_published_variants(variant: str, backbone: str) -> None:
    model = recognize(stub_state(variant), PATH)
    assert model == OfficialModel(backbone, RECIPES[backbone], 133, 80)


def with_backbone(backbone: State) -> State:
    """Return the head of r50 with another backbone, with official names."""
    head = {name: tensor for name, tensor in stub_state("r50").items() if not name.startswith("backbone.")}
    return head | {f"backbone.{name}": tensor for name, tensor in backbone.items()}


def reference_pvt(name: str) -> State:
    """Return timm's PVTv2 with the names of its reference implementation."""
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    named = {}
    for key, tensor in state.items():
        key = key.replace("patch_embed.", "patch_embed1.")
        key = re.sub(r"stages\.(\d)\.downsample", lambda m: f"patch_embed{int(m[1]) + 1}", key)
        key = re.sub(r"stages\.(\d)\.blocks", lambda m: f"block{int(m[1]) + 1}", key)
        named[re.sub(r"stages\.(\d)\.norm", lambda m: f"norm{int(m[1]) + 1}", key)] = tensor
    return named


def swin(name: str) -> State:
    with torch.device("meta"):
        state: State = timm.create_model(name).state_dict()
    return state


@pytest.mark.slow
def test_variants_without_official_checkpoints() -> None:
    assert recognize(with_backbone(reference_pvt("pvt_v2_b0")), PATH).backbone == "pvt_v2_b0"
    assert recognize(with_backbone(reference_pvt("pvt_v2_b2")), PATH).backbone == "pvt_v2_b2"
    assert recognize(with_backbone(swin("swin_tiny_patch4_window7_224")), PATH).backbone == "swin_tiny"


def refused(state: State, path: Path = PATH) -> str:
    with pytest.raises(CheckpointError) as caught:
        recognize(state, path)
    message = str(caught.value)
    assert message.startswith(f"checkpoint {path} ")
    assert "\n" not in message
    return message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        (lambda: reference_pvt("pvt_v2_b1"), "a PVTv2 of width 64 and 2, 2, 2, 2 blocks"),
        (lambda: reference_pvt("pvt_v2_b3"), "a PVTv2 of width 64 and 3, 4, 18, 3 blocks"),
        (lambda: swin("swin_small_patch4_window7_224"), "a Swin of width 96 and 2, 2, 18, 2 blocks"),
        (lambda: swin("swin_base_patch4_window7_224"), "a Swin of width 128 and 2, 2, 18, 2 blocks"),
        (lambda: torchvision.models.resnet18().state_dict(), "a ResNet of width 64 and 2, 2, 2, 2 blocks"),
        (dict, "without a backbone; expected tensors of a ResNet"),
    ],
)
def test_other_backbones_are_described(backbone: Callable[[], State], expected: str) -> None:
    message = refused(with_backbone(backbone()))
    assert f"model.pth is a Panoptic SegFormer {'' if expected.startswith('without') else 'with '}{expected}" in message


@pytest.mark.parametrize(
    "name", ["backbone.conv1.weight", "bbox_head.cls_branches.0.weight", "bbox_head.stuff_query.weight"]
)
def test_a_missing_tensor_that_identifies_the_variant_is_reported(name: str) -> None:
    state = stub_state("r50")
    del state[name]
    expected = f"is a Panoptic SegFormer, but {name} is missing or has fewer than two dimensions; use a complete file"
    assert expected in refused(state)
    for tensor in (torch.tensor(1.0), torch.ones(256)):
        assert expected in refused({**state, name: tensor})


def blocks(stage: int, block: int, state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name.startswith(f"backbone.layer{stage}.{block}.")}


@pytest.mark.parametrize(("variant", "backbone"), [("r50", "resnet50"), ("r101", "resnet101")])
def test_single_missing_or_additional_blocks_do_not_change_the_backbone(variant: str, backbone: str) -> None:
    state = stub_state(variant)
    assert recognize({**state, "backbone.layer9.0.conv1.weight": ONE}, PATH).backbone == backbone
    assert recognize({**state, "backbone.layer3.99.conv1.weight": ONE}, PATH).backbone == backbone
    for stage, block in ((2, 3), (3, 4)):
        missing = blocks(stage, block, state)
        assert missing
        assert recognize({name: state[name] for name in state if name not in missing}, PATH).backbone == backbone


def test_counts_come_from_the_shapes() -> None:
    state = stub_state("r50")
    state["bbox_head.cls_branches.0.weight"] = torch.zeros(8, 256)
    state["bbox_head.stuff_query.weight"] = torch.zeros(11, 512)
    assert recognize(state, PATH) == OfficialModel("resnet50", "r50", 19, 8)


def test_older_names_are_recognized() -> None:
    old = {
        name.replace(".things_mask_head.", ".mask_head.").replace(".stuff_mask_head.", ".mask_head2."): tensor
        for name, tensor in stub_state("r50").items()
    }
    assert recognize(old, PATH).backbone == "resnet50"


# Other models


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["sem_seg_head.predictor.query_feat.weight", "backbone.stem.conv1.weight"], "such as Mask2Former"),
        (["backbone.conv1.weight", "panoptic_head.query_embed.weight"], "such as Mask2Former"),
        (["transformer.encoder.layers.0.norm1.weight", "class_embed.weight"], "such as DETR"),
        (["backbone.conv1.weight", "rpn_head.rpn_conv.weight", "roi_head.mask_head.convs.0.conv.weight"],
         "is a checkpoint of another model in the format of MMDetection"),
        (["bbox_head.transformer.level_embeds", "bbox_head.cls_branches.0.weight"],
         "is a checkpoint of another model in the format of MMDetection"),
        (["weight", "bias"], "is not a checkpoint of Panoptic SegFormer or K-Net: its tensors are weight, bias"),
    ],
)  # fmt: skip
def test_other_models_are_recognized(names: list[str], expected: str) -> None:
    message = refused(dict.fromkeys(names, ONE))
    assert expected in message
    assert f"its tensors are {names[0]}" in message


@pytest.mark.parametrize(
    "state",
    [
        lambda: torchvision.models.resnet18().state_dict(),
        lambda: reference_pvt("pvt_v2_b0"),
        lambda: timm.create_model("pvt_v2_b0").state_dict(),
        lambda: swin("swin_tiny_patch4_window7_224"),
    ],
    ids=["resnet", "reference pvt", "timm pvt", "swin"],
)
def test_imagenet_weights_are_not_a_checkpoint(state: Callable[[], State]) -> None:
    expected = "contains only backbone weights, such as ImageNet weights; to train from them, use --set"
    assert expected in refused(state())


def test_backbone_weights_with_the_names_of_a_detector() -> None:
    state = {f"backbone.{name}": tensor for name, tensor in torchvision.models.resnet18().state_dict().items()}
    expected = (
        "contains only backbone weights; remove `backbone.` from their names and train from them with --set "
        "model.backbone_weights=FILE: its tensors are backbone.conv1.weight, "
    )
    assert expected in refused(state)
    assert "is not a checkpoint of Panoptic SegFormer or K-Net" in refused({**state, "strange_head.weight": ONE})


def test_what_was_expected_is_named() -> None:
    assert refused({"weight": ONE}).endswith(
        "expected a file written by `panformer train`, or an official checkpoint with tensors such as "
        "bbox_head.stuff_query.weight or rpn_head.init_kernels.weight"
    )


# The tables


def test_variants_are_known_backbones_and_recipes_use_them() -> None:
    assert set(VARIANTS.values()) <= set(BACKBONES)
    for backbone, recipe in RECIPES.items():
        assert load_recipe(recipe).model.backbone == backbone
