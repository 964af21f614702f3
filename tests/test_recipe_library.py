"""`panformer recipes`: the list, the check of a recipe, and editable copies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from panformer_cli.errors import PanformerError, RecipeError
from panformer_cli.recipe_io import built_in_recipes, load_recipe
from panformer_cli.recipe_library import copy_recipe, summaries
from tests.helpers import run


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["r50", "tiny", "swinl", "knet_r101"])
def test_a_copy_is_the_same_recipe_with_another_name(name: str) -> None:
    copy_recipe(name, Path("mine.yaml"))
    assert load_recipe("mine.yaml") == replace(load_recipe(name), name="mine")
    lines = Path("mine.yaml").read_text(encoding="utf-8").splitlines()
    # A default becomes active when its # is removed.
    commented = [line.replace("#", "", 1) if line.lstrip().startswith("#") and line.lstrip()[1] != " " else line
                 for line in lines if line.strip() != "#"]  # fmt: skip
    Path("all.yaml").write_text("\n".join(commented), encoding="utf-8")
    assert load_recipe("all.yaml") == load_recipe("mine.yaml")
    assert len(lines) > len(set(lines)) > 150


def test_a_copy_states_only_what_differs() -> None:
    copy_recipe("r50_1x", Path("mine.yaml"))
    active = [line.strip() for line in Path("mine.yaml").read_text().splitlines() if line and "#" not in line]
    assert "epochs: 12" in active
    assert "drop_epochs: [8]" in active
    assert not any(line.startswith(("lr:", "embed_dim:")) for line in active)


def test_a_copy_of_a_file_keeps_its_settings() -> None:
    Path("first.yaml").write_text("name: first\ntrain: {lr: 3e-4}\ndata: {root: 'no'}\n")
    copy_recipe("first.yaml", Path("second.yaml"))
    assert load_recipe("second.yaml") == replace(load_recipe("first.yaml"), name="second")


def test_a_copy_never_overwrites_a_file_unless_forced() -> None:
    Path("mine.yaml").write_text("name: mine")
    with pytest.raises(PanformerError, match=r"mine\.yaml exists already; choose another file, or .* --force"):
        copy_recipe("r50", Path("mine.yaml"))
    assert Path("mine.yaml").read_text() == "name: mine"
    copy_recipe("r50", Path("mine.yaml"), replaces=True)
    assert load_recipe("mine.yaml") == replace(load_recipe("r50"), name="mine")


def test_a_copy_needs_a_name_for_a_run() -> None:
    with pytest.raises(RecipeError, match=r"my recipe\.yaml: name is 'my recipe': expected letters"):
        copy_recipe("r50", Path("my recipe.yaml"))
    assert list(Path().iterdir()) == []


def test_every_built_in_recipe_is_in_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert [row.recipe.name for row in summaries()] == list(built_in_recipes())
    by_name = {row.recipe.name: row for row in summaries()}
    assert (by_name["r50"].parameters, by_name["r50"].data) == (50.7, "COCO 2017 panoptic")
    assert by_name["tiny"].data == "the generated scenes"
    assert by_name["coco_mini"].purpose == "overfits five real COCO images, from random weights"
    assert run("recipes", "list") == 0
    assert all(name in capsys.readouterr().out for name in ["swinl"])


def test_show_prints_the_resolved_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recipes", "show", "r50", "--set", "train.lr=1e-3") == 0
    Path("shown.yaml").write_text(capsys.readouterr().out)
    assert load_recipe("shown.yaml") == load_recipe("r50", ["train.lr=1e-3"])


def test_check_lists_differences_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("name: mine\ntrain: {lr: 3e-4}\ndata: {val_split: train2017}\n")
    assert run("recipes", "check", "mine.yaml") == 0
    out, err = capsys.readouterr()
    assert "mine.yaml: valid, 2 differences from r50" in out
    assert "train.lr" in out
    assert "0.00014" in out
    assert "data.train_split and data.val_split are both 'train2017'" in err
    assert run("recipes", "check", "tiny") == 0
    assert "tiny: valid, no difference from tiny" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train: {lrr: 1}", "mine.yaml: unknown key train.lrr; did you mean train.lr?"),
        ("train: {epochs: 12}", "train.drop_epochs is [18]: expected epochs below train.epochs (12)"),
    ],
)
def test_check_reports_what_train_refuses(text: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(text)
    assert run("recipes", "check", "mine.yaml") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert expected in err
