"""Settings that depend on the backbone."""

from __future__ import annotations

from pathlib import Path

import pytest

from panformer_cli.errors import RecipeError
from panformer_cli.models.backbones.known import BACKBONES
from panformer_cli.models.panoptic_segformer.settings import PanopticSegFormerSettings
from panformer_cli.recipe_io import load_recipe, recipe_from_dict, recipe_to_dict


@pytest.mark.parametrize("name", [*BACKBONES, "timm/resnet34", "timm/convnext_tiny.fb_in22k"])
def test_published_resnets_freeze_stem_and_first_stage_by_default(name: str) -> None:
    expected = 2 if name in ("resnet18", "resnet50", "resnet101") else 0
    assert PanopticSegFormerSettings(backbone=name).frozen_stages == expected
    assert PanopticSegFormerSettings(backbone=name, frozen_stages=0).frozen_stages == 0


def test_changing_the_backbone_needs_one_override(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    recipe = load_recipe(str(tmp_path / "mine.yaml"), ["model.backbone=timm/convnext_tiny.fb_in22k"])
    assert recipe.model.frozen_stages == 0
    assert recipe_from_dict(recipe_to_dict(recipe), "a checkpoint") == recipe


def test_recipes_record_the_number_of_frozen_stages() -> None:
    written = recipe_to_dict(load_recipe("r50"))
    assert written["model"]["frozen_stages"] == 2
    assert recipe_from_dict(written, "a checkpoint") == load_recipe("r50")
    assert load_recipe("r50", ["model.frozen_stages=null"]) == load_recipe("r50")


def test_other_backbones_cannot_freeze_stages() -> None:
    with pytest.raises(RecipeError, match=r"model\.frozen_stages is 2: expected 0 to 0 with the backbone swin_tiny"):
        PanopticSegFormerSettings(backbone="swin_tiny", frozen_stages=2)
