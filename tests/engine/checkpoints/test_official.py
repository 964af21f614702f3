"""Recipe and categories of an official checkpoint, from its tensors, its file name and the user's options."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.engine.checkpoints.official import describe_official
from panformer_cli.errors import CheckpointError, RecipeError
from panformer_cli.models.panoptic_segformer.settings import MergingSettings
from panformer_cli.recipe_io import load_recipe
from tests.release_files import save_as_mmcv, stub_state

FEW = CategoryTable([Category(1, "cat", True), Category(2, "dog", True), Category(5, "sky", False)])


def write(folder: Path, variant: str = "r50", name: str = "mine.pth") -> Path:
    return save_as_mmcv(stub_state(variant), folder / name)


def of_few_categories(folder: Path) -> Path:
    state = stub_state("r50")
    state["bbox_head.cls_branches.0.weight"] = torch.zeros(2, 256)
    state["bbox_head.stuff_query.weight"] = torch.zeros(1, 512)
    return save_as_mmcv(state, folder / "few.pth")


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["r50", "r101", "pvtv2b5", "swinl"])
def test_the_recipe_is_inferred_from_the_shapes(variant: str, tmp_path: Path) -> None:
    official, recipe, categories = describe_official(write(tmp_path, variant))
    assert official.name == "Panoptic SegFormer"
    assert recipe == load_recipe(variant)
    assert categories == COCO


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("panoptic_segformer_r50_1x.pth", "r50_1x"),
        ("panoptic_segformer_r50_2x.pth", "r50"),
        ("panoptic_segformer_r101_2x.pth", "r50"),  # the content has priority over the file name
        ("r50_1x.pth", "r50"),
    ],
)
def test_the_file_name_distinguishes_the_schedule(name: str, expected: str, tmp_path: Path) -> None:
    assert describe_official(write(tmp_path, "r50", name))[1] == load_recipe(expected)


def test_a_file_with_the_name_of_a_recipe_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r50").write_text("name: trap")
    assert describe_official(write(tmp_path))[1].name == "r50"


@pytest.mark.slow
def test_the_recipe_can_be_given(tmp_path: Path) -> None:
    assert describe_official(write(tmp_path), "r50_1x")[1] == load_recipe("r50_1x")
    (tmp_path / "mine.yaml").write_text("name: mine\ninference: {score_threshold: 0.5}\n")
    assert describe_official(write(tmp_path), str(tmp_path / "mine.yaml"))[1].inference == MergingSettings(
        score_threshold=0.5
    )
    with pytest.raises(RecipeError, match="the recipe 'r55' does not exist"):
        describe_official(write(tmp_path), "r55")


def test_a_recipe_with_another_backbone_is_named_with_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        describe_official(write(tmp_path, "r101", "r101.pth"), "r50")
    assert str(caught.value) == (
        f"checkpoint {tmp_path / 'r101.pth'} has the backbone resnet101 (recipe r101), but the recipe r50 has "
        "resnet50; omit --recipe, or give one with resnet101"
    )


@pytest.mark.slow
def test_a_backbone_without_a_recipe_needs_one(tmp_path: Path) -> None:
    head = {name: tensor for name, tensor in stub_state("r50").items() if not name.startswith("backbone.")}
    with torch.device("meta"):
        names = timm.create_model("swin_tiny_patch4_window7_224").state_dict()
    path = save_as_mmcv(
        head | {f"backbone.{name}": torch.tensor(1.0).expand(tensor.shape) for name, tensor in names.items()},
        tmp_path / "swint.pth",
    )
    with pytest.raises(
        CheckpointError, match=r"the backbone swin_tiny, which no built-in recipe has; write a recipe and .*"
    ):
        describe_official(path)
    (tmp_path / "mine.yaml").write_text("name: mine\nmodel: {backbone: swin_tiny, frozen_stages: 0}\n")
    assert describe_official(path, str(tmp_path / "mine.yaml"))[1].name == "mine"


@pytest.mark.slow
def test_other_category_counts_than_cocos_need_a_table(tmp_path: Path) -> None:
    path = of_few_categories(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        describe_official(path)
    assert str(caught.value) == (
        f"checkpoint {path} was trained on 2 things and 1 stuff classes, not on COCO's 80 and 53, and does not name "
        f"them; give them with `panformer weights import {path} --out DIR --categories ANNOTATION.json`"
    )
    assert describe_official(path, categories=FEW)[2] == FEW


def test_a_table_with_other_counts_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="on 80 things and 53 stuff classes, but --categories has 2 things"):
        describe_official(write(tmp_path), categories=FEW)
