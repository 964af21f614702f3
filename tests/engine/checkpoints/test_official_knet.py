"""Official K-Net files as checkpoints: recipe, categories, and what is said about missing and surplus tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.engine.checkpoints.checkpoint import fill_model, official_checkpoint, read_checkpoint, read_weights
from panformer_cli.engine.checkpoints.official import describe_official
from panformer_cli.engine.checkpoints.published import PUBLISHED
from panformer_cli.errors import CheckpointError
from panformer_cli.models.build import build_model
from panformer_cli.recipe_io import load_recipe
from tests.release_files import save_as_mmcv, stub_state

CITY = CategoryTable([Category(n, f"c{n}", n >= 11) for n in range(19)])


def write(folder: Path, variant: str = "knet_r50", name: str = "model.pth") -> Path:
    return save_as_mmcv(stub_state(variant), folder / name)


@pytest.mark.parametrize("name", ["knet_r50_1x", "knet_r50", "knet_r101", "knet_swinl"])
def test_the_published_files_have_their_recipe(name: str, tmp_path: Path) -> None:
    variant = "knet_r50" if name == "knet_r50_1x" else name
    checkpoint = read_checkpoint(write(tmp_path, variant, PUBLISHED[name].file))
    assert checkpoint.recipe == load_recipe(name)
    assert checkpoint.categories == COCO
    assert checkpoint.official is not None
    assert checkpoint.official.name == "K-Net"


def test_another_file_name_is_the_longer_schedule(tmp_path: Path) -> None:
    assert read_checkpoint(write(tmp_path)).recipe.name == "knet_r50"


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (
            "r50",
            "is a K-Net (recipe knet_r50), but the recipe r50 is of the family panoptic_segformer; omit --recipe, ",
        ),
        ("knet_r101", "has the backbone resnet50 (recipe knet_r50), but the recipe knet_r101 has resnet101; omit --re"),
    ],
)
def test_a_recipe_of_another_model_is_refused(recipe: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        describe_official(write(tmp_path), recipe)
    assert expected in str(caught.value)


@pytest.mark.slow
def test_other_classes_need_their_categories(tmp_path: Path) -> None:
    state = stub_state("knet_r50")
    for name in state:
        if "fc_cls" in name or "conv_seg" in name:
            state[name] = state[name][:19]
    path = save_as_mmcv(state, tmp_path / "city.pth")
    expected = r"was trained on 19 things and stuff classes, not on COCO's 80 and 53, and does not name them; give them"
    with pytest.raises(CheckpointError, match=expected):
        read_checkpoint(path)
    checkpoint = official_checkpoint(path, categories=CITY)
    assert checkpoint.categories == CITY
    with torch.device("meta"):
        model = build_model(checkpoint.recipe.model, checkpoint.recipe.inference, CITY, pretrained=False)
    own, given = model.state_dict(), read_weights(checkpoint)
    assert all(given[name].shape == own[name].shape for name in given)


def load(state: dict[str, torch.Tensor], path: Path) -> str:
    """Return why a model cannot load a file with these tensors."""
    checkpoint = read_checkpoint(save_as_mmcv(state, path))
    with torch.device("meta"):
        model = build_model(checkpoint.recipe.model, checkpoint.recipe.inference, COCO, pretrained=False)
    with pytest.raises(CheckpointError) as caught:
        fill_model(model, checkpoint, read_weights(checkpoint))
    return str(caught.value)


@pytest.mark.slow
def test_missing_and_surplus_tensors_are_listed_with_their_official_names(tmp_path: Path) -> None:
    state = stub_state("knet_r50")
    for name in ("rpn_head.init_kernels.weight", "roi_head.mask_head.1.fc_cls.bias", "neck.fpn_convs.3.conv.weight"):
        del state[name]
    state |= {"roi_head.mask_head.3.fc_mask.bias": torch.zeros(256), "ema.decay": torch.zeros(1)}
    state["roi_head.mask_head.0.attention.attn.in_proj_weight"] = torch.zeros(3, 3)
    message = load(state, tmp_path / "model.pth")
    missing = "neck.fpn_convs.3.conv.weight, rpn_head.init_kernels.weight, roi_head.mask_head.1.fc_cls.bias"
    assert f"missing: {missing}; unexpected: roi_head.mask_head.3.fc_mask.bias, ema.decay; " in message
    assert "roi_head.mask_head.0.attention.attn.in_proj_weight ([3, 3], expected [768, 256])" in message


@pytest.mark.slow
def test_the_same_for_swin(tmp_path: Path) -> None:
    state = stub_state("knet_swinl")
    del state["backbone.norm0.weight"], state["backbone.stages.1.downsample.reduction.weight"]
    del state["backbone.stages.2.blocks.17.attn.w_msa.relative_position_bias_table"]
    del state["rpn_head.conv_seg.weight"], state["rpn_head.conv_seg.bias"]
    state["backbone.stages.0.blocks.2.norm1.weight"] = torch.zeros(192)
    message = load(state, tmp_path / "model.pth")
    for name in (
        "backbone.norm0.weight",
        "backbone.stages.1.downsample.reduction.weight",
        "backbone.stages.2.blocks.17.attn.w_msa.relative_position_bias_table",
        "rpn_head.conv_seg.bias",
    ):
        assert name in message
    assert "unexpected: backbone.stages.0.blocks.2.norm1.weight" in message
