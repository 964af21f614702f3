"""The recipes that come with panformer."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.scenes.patterns import scene_categories
from panformer_cli.engine.training.optimizer import build_optimizer
from panformer_cli.models.backbones.known import has_batch_norm
from panformer_cli.models.backbones.normalization import differs_from_ours, pretrained_statistics
from panformer_cli.models.build import build_model
from panformer_cli.models.families import DEFAULT_FAMILY, FAMILIES
from panformer_cli.models.knet.settings import KNetSettings, WinnerSettings
from panformer_cli.models.panoptic_segformer.settings import MergingSettings, PanopticSegFormerSettings
from panformer_cli.recipe_io import built_in_recipes, load_recipe, recipe_from_dict, recipe_to_dict
from panformer_cli.settings import DataSettings, TrainSettings
from panformer_cli.storage import plain_yaml
from tests.conftest import REPOSITORY

PUBLISHED = {
    "r50_1x": 48.0,
    "r50": 49.6,
    "r101": 50.6,
    "pvtv2b0": 49.5,
    "pvtv2b2": 52.5,
    "pvtv2b5": 55.6,
    "swinl": 55.8,
    "knet_r50_1x": 44.3,
    "knet_r50": 47.1,
    "knet_r101": 48.4,
    "knet_swinl": 54.6,
}
SMALL = ("tiny", "coco_mini")
DINOV3 = tuple(f"convnext_{size}_dinov3" for size in ("tiny", "small", "base", "large"))
OURS = (*SMALL, "convnext_tiny", "convnext_base", *DINOV3, "efficientnet_lite0")

every_recipe = pytest.mark.parametrize("path", built_in_recipes().values(), ids=str)


def test_all_recipes_are_built_in() -> None:
    assert set(built_in_recipes()) == {*PUBLISHED, *OURS}


@every_recipe
def test_a_recipe_has_the_name_of_its_file(path: Path) -> None:
    recipe = load_recipe(str(path))
    assert recipe.name == path.stem
    assert recipe.published_pq == PUBLISHED.get(path.stem)


@every_recipe
def test_the_header_describes_command_data_hardware_and_results(path: Path) -> None:
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert re.match(rf"# {path.stem}: \S.*\.\n", header)
    for entry in ("command", "data", "hardware", "published"):
        assert re.search(rf"^# {entry}: +\S", header, re.MULTILINE), entry
    is_trained = FAMILIES[load_recipe(str(path)).model.family].trainable
    assert (f"panformer train {path.stem} " if is_trained else f" --checkpoint {path.stem} ") in header
    if path.stem in PUBLISHED:
        assert f"PQ {PUBLISHED[path.stem]} on COCO val2017" in header
        assert "not measured" in header
    else:
        assert "nothing" in header


@every_recipe
def test_a_recipe_contains_only_differences_from_the_defaults(path: Path) -> None:
    defaults = recipe_to_dict(recipe_from_dict({"model": {"family": load_recipe(str(path)).model.family}}, "defaults"))
    defaults["model"]["family"] = DEFAULT_FAMILY
    for key, value in plain_yaml.parse(path.read_text()).items():
        stated = value.items() if isinstance(value, dict) else [(None, value)]
        same = [name for name, item in stated if item == (defaults[key][name] if name else defaults[key])]
        assert not same, f"{key}: {same}"


def test_the_published_settings() -> None:
    """The settings in docs/model.md."""
    r50 = load_recipe("r50")
    assert r50.model == PanopticSegFormerSettings(
        backbone="resnet50",
        backbone_weights="imagenet",
        frozen_stages=2,
        frozen_batch_norm=True,
        drop_path=0.0,
        embed_dim=256,
        heads=8,
        feedforward_dim=1024,
        points=4,
        encoder_layers=6,
        location_layers=6,
        thing_mask_layers=4,
        stuff_mask_layers=6,
        thing_queries=300,
        dropout=0.1,
        mask_bias=None,
        mask_waking_slope=0.0,
    )
    assert r50.data == DataSettings(
        short_side=800,
        long_side=1333,
        train_short_sides=tuple(range(480, 801, 32)),
        flip_probability=0.5,
        crop_probability=0.5,
        crop_short_sides=(400, 500, 600),
        crop_range=(384, 600),
    )
    assert r50.train == TrainSettings(
        epochs=24,
        max_steps=None,
        batch_size=8,
        images_per_forward=1,
        lr=1.4e-4,
        weight_decay=1e-4,
        slow_lr_factor=0.1,
        clip_norm=0.1,
        schedule="step",
        drop_epochs=(18,),
        warmup_steps=0,
        precision="fp32",
    )
    assert r50.inference == MergingSettings(top_k=100, score_threshold=0.25, thing_overlap=0.4, stuff_overlap=0.2)


@pytest.mark.parametrize(
    ("name", "backbone", "frozen_stages", "drop_path", "threshold"),
    [
        ("r50_1x", "resnet50", 2, 0.0, 0.25),
        ("r101", "resnet101", 2, 0.0, 0.25),
        ("pvtv2b0", "pvt_v2_b0", 0, 0.1, 0.3),
        ("pvtv2b2", "pvt_v2_b2", 0, 0.1, 0.3),
        ("pvtv2b5", "pvt_v2_b5", 0, 0.1, 0.3),
        ("swinl", "swin_large", 0, 0.3, 0.3),
    ],
)
def test_differences_of_the_other_recipes_from_r50(
    name: str, backbone: str, frozen_stages: int, drop_path: float, threshold: float
) -> None:
    r50, other = load_recipe("r50"), load_recipe(name)
    assert other.model.backbone == backbone
    assert (other.model.frozen_stages, other.model.drop_path) == (frozen_stages, drop_path)
    assert replace(other.model, backbone="resnet50", frozen_stages=2, drop_path=0.0) == r50.model
    assert (r50.inference, other.inference) == (MergingSettings(), MergingSettings(score_threshold=threshold))
    assert other.data == r50.data
    expected = replace(r50.train, epochs=12, drop_epochs=(8,)) if name == "r50_1x" else r50.train
    assert other.train == expected


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("knet_r50_1x", "resnet50"),
        ("knet_r50", "resnet50"),
        ("knet_r101", "resnet101"),
        ("knet_swinl", "swin_large"),
    ],
)
def test_the_recipes_of_k_net(name: str, backbone: str) -> None:
    """The settings in docs/knet.md."""
    recipe, r50 = load_recipe(name), load_recipe("r50")
    assert recipe.model == KNetSettings(
        family="knet",
        backbone=backbone,
        frozen_stages=0 if backbone == "swin_large" else 2,
        embed_dim=256,
        heads=8,
        feedforward_dim=2048,
        stages=3,
        thing_kernels=100,
    )
    assert recipe.inference == WinnerSettings(score_threshold=0.3, won_threshold=0.6)
    assert (recipe.data.short_side, recipe.data.long_side) == (r50.data.short_side, r50.data.long_side)


@pytest.mark.parametrize("name", SMALL)
def test_small_recipes_need_no_download_and_freeze_nothing(name: str) -> None:
    model = load_recipe(name).model
    assert (model.backbone_weights, model.frozen_stages) == ("none", 0)
    assert model.frozen_batch_norm == (has_batch_norm(model.backbone) is False)


@pytest.mark.parametrize("name", ["convnext_tiny", "convnext_base", *DINOV3])
def test_convnext_recipes_differ_from_r50_in_the_backbone_and_its_learning_rates(name: str) -> None:
    r50, other = load_recipe("r50"), load_recipe(name)
    size, tag = name.split("_")[1], "dinov3_lvd1689m" if name in DINOV3 else "fb_in22k"
    assert other.model.backbone == f"timm/convnext_{size}.{tag}"
    assert replace(other.model, backbone="resnet50", frozen_stages=2, drop_path=0.0) == r50.model
    assert replace(other.train, layer_decay=1.0) == r50.train
    assert other.data == r50.data


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_tiny", "convnext_base", *DINOV3])
def test_the_stem_of_a_convnext_has_the_learning_rate_that_the_recipe_states(name: str) -> None:
    recipe = load_recipe(name)
    with torch.device("meta"):
        model = build_model(recipe.model, recipe.inference, COCO, pretrained=False)
    rates = [group["lr"] for group in build_optimizer(model, recipe.train).param_groups]
    stated = re.search(r"# (\d+) layers: the stem has ([\d.]+) of", built_in_recipes()[name].read_text())
    assert stated is not None
    slow = recipe.train.lr * recipe.train.slow_lr_factor
    assert len(rates) == int(stated[1]) + 2  # and the encoder and decoders at two rates
    assert f"{min(rates) / slow:.2f}" == stated[2]


@every_recipe
def test_backbones_of_timm_have_pretrained_weights_for_the_usual_normalization(path: Path) -> None:
    backbone = load_recipe(str(path)).model.backbone
    if backbone.startswith("timm/"):
        assert not differs_from_ours(pretrained_statistics(backbone))
        config = timm.get_pretrained_cfg(backbone.removeprefix("timm/"))
        assert config is not None
        assert ("license:" in path.read_text()) == (config.license != "apache-2.0")


@every_recipe
def test_overrides_apply_to_every_recipe(path: Path) -> None:
    recipe = load_recipe(str(path), ["data.root=DIR", "train.max_steps=3"])
    assert (recipe.data.root, recipe.train.max_steps) == ("DIR", 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", built_in_recipes())
def test_the_page_of_recipes_has_the_parameters_of_each_model(name: str) -> None:
    recipe = load_recipe(name)
    table = scene_categories() if name == "tiny" else COCO
    with torch.device("meta"):
        model = build_model(recipe.model, recipe.inference, table, pretrained=False)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    page = (REPOSITORY / "docs" / "recipes.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| \[`{name}`\].*$", page, flags=re.MULTILINE)
    assert row.split(" | ")[2] == f"{millions:.1f}"
    assert f"\n# parameters: {millions:.1f} M\n" in built_in_recipes()[name].read_text(encoding="utf-8")
