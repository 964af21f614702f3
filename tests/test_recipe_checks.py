"""Settings that cannot be used together: refused before a new run starts, and accepted when a run is resumed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from panformer_cli.errors import RecipeError
from panformer_cli.models.panoptic_segformer.settings import PanopticSegFormerSettings
from panformer_cli.recipe_checks import check_batch_norm, check_run
from panformer_cli.recipe_io import built_in_recipes, load_recipe
from tests.conftest import REPOSITORY


def warnings(name: str, *overrides: str) -> list[str]:
    return check_run(load_recipe(name, ["data.root=DIR", *overrides]))


@pytest.mark.parametrize("name", [name for name in built_in_recipes() if not name.startswith("knet")])
def test_built_in_recipes_can_be_trained(name: str) -> None:
    found = warnings(name)
    assert len(found) == (name == "coco_mini")
    assert all("are both 'val2017'" in warning for warning in found)


@pytest.mark.parametrize("name", ["knet_r50_1x", "knet_r50", "knet_r101", "knet_swinl"])
def test_recipes_of_a_family_that_is_inference_only_are_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=rf"^the recipe {name} cannot be trained: its model family, knet, is infer"):
        check_run(load_recipe(name))  # without a data set, which no setting would make useful
    with pytest.raises(RecipeError, match="is inference only"):
        check_run(load_recipe(name), is_new=False)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.root="], ["data.root is not set: give the folder of the data set, --set data.root=DIR"]),
        (
            ["data.long_side=799", "data.train_short_sides=[799]"],
            ["data.short_side is 800: expected at most data.long"],
        ),
        (["data.train_short_sides=[32, 1334]"], ["data.train_short_sides is [32, 1334]: expected values of at most"]),
        (["data.crop_short_sides=[4201]"], ["data.crop_short_sides is [4201]: expected values of at most 4200"]),
        (
            ["train.drop_epochs=[3, 24]"],
            ["train.drop_epochs is [3, 24]: expected epochs below train.epochs (24), since epochs are counted from 0"],
        ),
        (["train.epochs=12"], ["set train.drop_epochs=[9] to drop after three quarters of the run, or train.drop_epo"]),
        (["train.epochs=1"], ["from 0; set train.drop_epochs=[] for a constant learning rate"]),
        (
            ["train.images_per_forward=3"],
            ["train.batch_size is 8: expected a multiple of train.images_per_forward (3)"],
        ),
        (
            ["model.backbone=swin_tiny", "model.frozen_stages=0", "model.frozen_batch_norm=false"],
            ["model.frozen_batch_norm is False, but the backbone swin_tiny has no BatchNorm to train: expected"],
        ),
        (["data.root=", "train.epochs=12"], ["data.root is not set", "train.drop_epochs is [18]"]),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides: list[str], expected: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        warnings("r50", *overrides)
    problems = str(caught.value).splitlines()
    assert len(problems) == len(expected)
    for problem, part in zip(problems, expected, strict=True):
        assert part in problem


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.short_side=1333", "data.train_short_sides=[1333]"],
        ["data.crop_short_sides=[4200]"],
        ["data.crop_short_sides=[9000]", "data.crop_probability=0"],
        ["train.drop_epochs=[23]"],
        ["train.drop_epochs=[]", "train.epochs=1"],
        ["train.epochs=1", "train.schedule=cosine"],
        ["train.images_per_forward=8"],
        ["model.frozen_batch_norm=false"],
        ["model.backbone=timm/convnext_atto", "model.frozen_stages=0", "model.frozen_batch_norm=false"],
    ],
)
def test_settings_at_the_limit_are_accepted(overrides: list[str]) -> None:
    assert warnings("r50", *overrides) == []


def test_settings_without_effect_are_warned_about() -> None:
    assert warnings("r50", "data.val_split=train2017") == [
        "data.train_split and data.val_split are both 'train2017': the run is evaluated on its training images, which "
        "says nothing about other images"
    ]
    assert warnings("tiny", "train.drop_epochs=[1]") == [
        "train.drop_epochs is [1], but only the schedule `step` uses it; train.schedule is cosine"
    ]


def test_a_resumed_run_keeps_its_settings() -> None:
    recipe = load_recipe("r50", ["data.root=DIR", "train.epochs=1", "data.long_side=400", "data.val_split=train2017"])
    assert check_run(recipe, is_new=False) == []
    with pytest.raises(RecipeError, match="data.root is not set"):
        check_run(replace(recipe, data=replace(recipe.data, root="")), is_new=False)


def test_batch_norm_is_checked_for_any_backbone_once_it_is_built() -> None:
    trained = PanopticSegFormerSettings(backbone="timm/x", frozen_batch_norm=False)
    with pytest.raises(RecipeError, match="the backbone timm/x has no BatchNorm to train"):
        check_batch_norm(trained, has_batch_norm=False)
    check_batch_norm(trained, has_batch_norm=True)
    check_batch_norm(PanopticSegFormerSettings(backbone="timm/x"), has_batch_norm=False)


MISTAKES = """
import sys
from panformer_cli.cli.main import main

sys.modules["torch"] = None  # importing it fails
for words in {commands}:
    try:
        main(["train", *words.split()])
    except SystemExit as ended:
        assert ended.code == 2, words
"""


@pytest.mark.slow
def test_mistakes_in_a_recipe_are_reported_without_torch_and_before_processes_start() -> None:
    commands = {
        "nowhere.yaml": "the recipe 'nowhere.yaml' does not exist",
        "r50 --set train.lrr=1 --cpu-processes 2": "unknown key train.lrr; did you mean train.lr?",
        "r50 --set train.lr=fast --cpu-processes 2": "train.lr is 'fast': expected a number",
        "r50 --set train.lr=-1": "train.lr is -1.0: expected more than 0",
        "r50 --resume --set train.lr=-1": "train.lr is -1.0: expected more than 0",
        "r50 --set data.root=x --set train.epochs=12": "train.drop_epochs is [18]: expected epochs below",
        "r50": "data.root is not set",
    }
    code = MISTAKES.format(commands=list(commands))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    errors = [line for line in done.stderr.splitlines() if line]
    assert len(errors) == len(commands)
    for error, expected in zip(errors, commands.values(), strict=True):
        assert expected in error
