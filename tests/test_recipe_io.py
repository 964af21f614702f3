"""Reading recipes: valid values, invalid values, and error messages."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panformer_cli.errors import RecipeError
from panformer_cli.models.families import FAMILIES
from panformer_cli.models.panoptic_segformer.settings import MergingSettings, PanopticSegFormerSettings
from panformer_cli.models.published import PublishedWeights
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import (
    built_in_recipes,
    find_recipe,
    load_recipe,
    recipe_from_dict,
    recipe_to_dict,
    recipe_to_yaml,
)
from panformer_cli.settings import DataSettings, InferenceSettings, ModelSettings, TrainSettings
from panformer_cli.storage import plain_yaml


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run every test in an empty folder, without `recipes/`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str, *overrides: str) -> Recipe:
    Path("mine.yaml").write_text(text, encoding="utf-8")
    return load_recipe("mine.yaml", overrides)


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(text, *overrides)
    return str(caught.value)


def test_values_of_every_type_and_defaults_for_the_rest() -> None:
    recipe = load(
        """
        name: mine
        model: {backbone: swin_large, frozen_stages: 0, mask_bias: 0.5}
        data: {root: here, train_short_sides: [320, 480], crop_range: [100, 200], skip_bad_images: true}
        train:
          lr: 1e-4
          clip_norm: 1
          max_steps: 10
        inference:
        """
    )
    assert recipe == Recipe(
        name="mine",
        model=PanopticSegFormerSettings(backbone="swin_large", frozen_stages=0, mask_bias=0.5),
        data=DataSettings(root="here", train_short_sides=(320, 480), crop_range=(100, 200), skip_bad_images=True),
        train=TrainSettings(lr=0.0001, clip_norm=1.0, max_steps=10),
    )
    assert isinstance(recipe.train.clip_norm, float)


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.0001", ".0001", "1.0e-4", "+1e-04"])
def test_common_spellings_of_numbers(text: str) -> None:
    assert load(f"train: {{lr: {text}}}").train.lr == 0.0001
    assert load("name: a", f"train.lr={text}").train.lr == 0.0001


@pytest.mark.parametrize("word", ["off", "no", "yes", "on", "none", "2017-01-31x", "y", "0x1f", "1:30", "<<"])
def test_text_is_used_verbatim(word: str) -> None:
    assert load(f"data: {{root: {word}}}").data.root == word


@pytest.mark.parametrize(
    ("word", "value"), [("yes", True), ("On", True), ("true", True), ("no", False), ("off", False), ("False", False)]
)
def test_spellings_of_booleans(word: str, value: bool) -> None:
    assert load(f"data: {{skip_bad_images: {word}}}").data.skip_bad_images is value
    assert load("name: a", f"data.skip_bad_images={word}").data.skip_bad_images is value


def test_overrides() -> None:
    recipe = load(
        "name: mine\ntrain: {lr: 1}\ndata:\n",
        "data.root=/a b=c/1e5",
        "train.max_steps=10",
        "train.lr=1e-4",
        "data.train_short_sides=[320]",
        "model.backbone=resnet18",
        "model.mask_bias=null",
        "name=12",
        "train.lr=2e-4",
    )
    assert recipe.data == DataSettings(root="/a b=c/1e5", train_short_sides=(320,))
    assert recipe.train == TrainSettings(lr=2e-4, max_steps=10)
    assert recipe.model == PanopticSegFormerSettings(backbone="resnet18")
    assert recipe.name == "12"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train: {lrr: 1}", "mine.yaml: unknown key train.lrr; did you mean train.lr?"),
        ("lr: 1", "mine.yaml: unknown key lr; did you mean train.lr?"),
        ("modle: {}", "unknown key modle; did you mean model?"),
        ("zzz: 1", "unknown key zzz; expected one of name, published_pq, data, inference, model, train"),
        ("inference: {zzz: 1}", "unknown key inference.zzz; inference has top_k, score_threshold"),
        ("1: 2", "unknown key 1"),
        ("train: {epochs: 2.5}", "train.epochs is 2.5: expected a whole number"),
        ("train: {epochs: 1e3}", "train.epochs is 1000.0: expected a whole number"),
        ("train: {epochs: true}", "train.epochs is True: expected a whole number"),
        ("train: {epochs: }", "train.epochs is null: expected a whole number"),
        ("train: {epochs: 99999999999999999999}", "train.epochs is 1e+20: expected a whole number"),
        ("train: {lr: fast}", "train.lr is 'fast': expected a number"),
        ("train: {lr: true}", "train.lr is True: expected a number"),
        ("train: {lr: .nan}", "train.lr is nan: expected a number"),
        ("train: {weight_decay: 1e999}", "train.weight_decay is inf: expected a number"),
        ("train: {max_steps: few}", "train.max_steps is 'few': expected a whole number, or null"),
        ("train: {schedule: linear}", "train.schedule is 'linear': expected one of step, cosine"),
        ("data: {skip_bad_images: maybe}", "data.skip_bad_images is 'maybe': expected true or false"),
        ("data: {skip_bad_images: 1}", "data.skip_bad_images is 1: expected true or false"),
        ("data: {root: 2017}", "data.root is 2017: expected text"),
        ("data: {root: null}", "data.root is null: expected text"),
        ("data: {train_short_sides: 320}", "data.train_short_sides is 320: expected a list of whole numbers"),
        ("data: {train_short_sides: [320, a]}", "data.train_short_sides is [320, 'a']: expected a list of"),
        ("data: {crop_range: [1, 2, 3]}", "data.crop_range is [1, 2, 3]: expected a list of 2 whole numbers"),
        ("data: 4", "data is 4: expected keys with values"),
        ("data: [root]", "data is ['root']: expected keys with values"),
        ("train: {lr: -1}", "mine.yaml: train.lr is -1.0: expected more than 0"),
        (f"name: [{'x' * 500}]", "name is ['xxxx"),
    ],
)
def test_a_single_problem_is_one_line(text: str, expected: str) -> None:
    message = refusal(text)
    assert expected in message
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.lr", "--set train.lr: expected key=value, such as train.lr=1e-4"),
        ("=3", "--set =3: expected key=value"),
        ("trainlr=3", "unknown key trainlr; did you mean train.lr?"),
        ("lr=3", "unknown key lr; did you mean train.lr?"),
        ("train=3", "train is a section: set one of its keys, such as train.epochs"),
        ("train.lr.x=3", "unknown key train.lr.x; did you mean train.lr?"),
        ("train.lr=[1", "train.lr is '[1': line 1, column 3"),
        ("train.lr=", "train.lr is null: expected a number"),
        ("model.frozen_stages=6", "model.frozen_stages is 6: expected 0 to 5 with the backbone resnet50"),
        ("model.family=mask2former", "model.family is 'mask2former': expected one of panoptic_segformer"),
        ("model.family=", "model.family is '': expected one of panoptic_segformer"),
        ("model.backbone=resnet5", "model.backbone is 'resnet5': expected one of resnet18,"),
        (
            "model.backbone=resnet5",
            "timm/MODEL for another timm model, such as timm/convnext_tiny.fb_in22k; did you mean",
        ),
        ("model.backbone=swin_larg", "did you mean swin_large?"),
        ("model.backbone=timm/", "model.backbone is 'timm/': expected one of"),
    ],
)
def test_problems_in_overrides(override: str, expected: str) -> None:
    message = refusal("name: mine", override)
    assert expected in message
    assert message.startswith(f"mine.yaml with --set {override}: ")


def test_any_timm_model_name_is_accepted_as_backbone() -> None:
    """Building the model checks whether timm has it."""
    recipe = load("model: {backbone: timm/convnext_tiny.fb_in22k, frozen_stages: 0}")
    assert recipe.model.backbone == "timm/convnext_tiny.fb_in22k"
    assert load("name: a", "model.frozen_stages=0", "model.backbone=timm/x").model.backbone == "timm/x"


@pytest.mark.parametrize("text", ["name: mine", "model:", "model: {heads: 4}", "model: {family: panoptic_segformer}"])
def test_the_family_is_panoptic_segformer_unless_another_is_named(text: str) -> None:
    recipe = load(text)
    assert recipe.model.family == "panoptic_segformer"
    assert isinstance(recipe.model, PanopticSegFormerSettings)
    assert isinstance(recipe.inference, MergingSettings)


@pytest.mark.parametrize("family", ["mask2former", "[a]", "{a: b}", "null", "3"])
def test_for_an_unknown_family_only_the_family_is_reported(family: str) -> None:
    message = refusal(f"model: {{family: {family}, queries: 3}}\ninference: {{zzz: 1}}\ntrain: {{lr: -1}}")
    assert message.startswith("mine.yaml: model.family is ")
    assert ": expected one of panoptic_segformer, " in message
    assert "\n" not in message


@dataclass(frozen=True)
class GridSettings(ModelSettings):
    """Settings of a family that exists only in these tests."""

    family: str = "grid"
    cells: int = 40


@dataclass(frozen=True)
class CellSettings(InferenceSettings):
    least_cells: int = 2


class GridFamily:
    model_settings = GridSettings
    inference_settings = CellSettings
    published: tuple[PublishedWeights, ...] = ()
    trainable = True

    def build(self, *_: object) -> NoReturn:
        raise NotImplementedError

    def official_format(self) -> None:
        return None

    def load_tuning_cache(self, path: Path) -> NoReturn:
        raise NotImplementedError


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "grid", GridFamily())


@pytest.mark.usefixtures("grid")
def test_another_family_has_its_own_settings() -> None:
    expected = Recipe("mine", model=GridSettings(cells=8), inference=CellSettings(least_cells=1))
    text = "name: mine\nmodel: {family: grid, cells: 8}\ninference: {least_cells: 1}"
    by_overrides = load("name: mine", "model.cells=8", "inference.least_cells=1", "model.family=grid")
    for recipe in (load(text), by_overrides, recipe_from_dict(recipe_to_dict(expected), "memory")):
        assert recipe == expected
    assert load(text, "model.family=panoptic_segformer", "model.family=grid") == expected
    without = recipe_from_dict({"name": "mine", "model": {"family": "grid"}}, "memory")
    assert without.inference == CellSettings()


@pytest.mark.usefixtures("grid")
def test_sections_that_are_left_out_have_the_defaults_of_the_family() -> None:
    recipe = load("model: {family: grid}")
    assert (recipe.model, recipe.inference) == (GridSettings(), CellSettings())
    assert load("name: mine", "model.family=grid").inference == CellSettings()


@pytest.mark.usefixtures("grid")
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.heads=4", "unknown key model.heads; model has family, backbone, "),
        ("model.cell=4", "unknown key model.cell; did you mean model.cells?"),
        ("inference.top_k=4", "unknown key inference.top_k; inference has least_cells"),
        ("model.cells=few", "model.cells is 'few': expected a whole number"),
    ],
)
def test_keys_are_checked_and_suggested_by_family(override: str, expected: str) -> None:
    assert expected in refusal("model: {family: grid}", override)
    key, _, value = override.partition("=")
    section, _, leaf = key.partition(".")
    model = f"{{family: grid, {leaf}: {value}}}" if section == "model" else "{family: grid}"
    rest = "" if section == "model" else f"\n{section}: {{{leaf}: {value}}}"
    assert expected in refusal(f"model: {model}{rest}")


def test_all_problems_are_reported_at_once() -> None:
    message = refusal(
        """
        train: {lr: -1, epochs: many, batch_size: 0}
        model: {embed_dim: 100, headz: 8}
        inference: {top_k: 0}
        data: {workers: -1}
        """,
        "train.warmup=3",
        "oops",
    )
    heading, *problems = message.splitlines()
    assert heading == "mine.yaml with --set train.warmup=3 --set oops has 9 problems:"
    named = {problem.strip().partition(" is ")[0] for problem in problems if " is " in problem}
    expected = {"train.lr", "train.epochs", "train.batch_size", "model.embed_dim", "inference.top_k", "data.workers"}
    assert named == expected
    assert len(problems) == 9


def test_a_wrong_type_is_not_reported_again_as_its_default() -> None:
    assert refusal("model: {heads: 7, embed_dim: wide}") == (
        "mine.yaml: model.embed_dim is 'wide': expected a whole number"
    )


def test_zero_heads_are_an_error() -> None:
    assert refusal("model: {heads: 0}") == "mine.yaml: model.heads is 0: expected 1 to 1024"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "mine.yaml is empty"),
        (b"# nothing yet\n", "mine.yaml is empty"),
        (b"name", "mine.yaml contains 'name': expected a recipe"),
        (b"- a\n- b\n", "mine.yaml contains ['a', 'b']"),
        (b"name: a\ntrain: {lr: [1\n", "mine.yaml is not a recipe in YAML: line 3, column 1"),
        (b"name: a\n\tlr: 1\n", "line 2, column 1"),
        (b"name: a\nname: b\n", "line 2, column 1: the key 'name' appears twice, first on line 1"),
        (b"train:\n  lr: 1\n  lr: 2\n", "line 3, column 3: the key 'lr' appears twice, first on line 2"),
        (b"a: &x [1]\nb: *x\n", "line 1, column 4: anchors"),
        (b"name: !!python/object/apply:os.system [ls]\n", "line 1, column 7: anchors"),
        (b"name: !!int x\n", "line 1, column 7: anchors"),
        (b"? [a, b]\n: c\n", "line 1, column 3"),
        (b"name: a\n---\nname: b\n", "expected a single document"),
        (b"[" * 5000, "line 1, column 101: lists and objects are nested more than 100 levels deep"),
        (b"name: \x07\n", "#x0007"),
        (b"\xff\xfe\x00name", "mine.yaml is not UTF-8 text (byte 0)"),
    ],
)
def test_files_that_are_not_recipes(content: bytes, expected: str) -> None:
    Path("mine.yaml").write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe("mine.yaml")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_ignored() -> None:
    Path("mine.yaml").write_bytes(b"\xef\xbb\xbfname: mine\n")
    assert load_recipe("mine.yaml").name == "mine"


@pytest.mark.parametrize("name", ["r50", "r50.yaml", "recipes/r50.yaml", "./recipes/r50.yaml"])
def test_built_in_recipes_from_anywhere(name: str) -> None:
    assert load_recipe(name).name == "r50"


def test_an_existing_file_takes_precedence_but_a_folder_does_not() -> None:
    Path("recipes").mkdir()
    Path("recipes/r50.yaml").write_text("name: my_own")
    assert load_recipe("recipes/r50.yaml").name == "my_own"
    Path("r50").mkdir()
    assert load_recipe("r50").name == "r50"
    Path("tiny").write_text("name: bare")
    assert load_recipe("tiny").name == "bare"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("r51", "the recipe 'r51' does not exist: expected a YAML file or one of the built-in recipes coco_mini, "),
        ("recipes/swin.yaml", "did you mean swinl?"),
        ("other/r50.yaml", "the recipe 'other/r50.yaml' does not exist"),
        ("/recipes/r50.yaml", "does not exist"),
        ("file/r50.yaml", "does not exist"),
        ("folder", "the recipe 'folder' is a folder"),
        ("", "the recipe '' is a folder"),
        ("x" * 5000, "cannot be opened (File name too long)"),
    ],
)
def test_recipe_not_found(name: str, expected: str) -> None:
    Path("folder").mkdir()
    Path("file").touch()
    with pytest.raises(RecipeError) as caught:
        find_recipe(name)
    assert expected in str(caught.value)


def test_unreadable_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    Path("mine.yaml").write_text("name: a")
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(RecipeError, match="cannot read the recipe mine.yaml: Permission denied"):
        load_recipe("mine.yaml")


@pytest.mark.parametrize("wrong", [[], "text", {"model": {"heads": {}}}, {"train": {3: 4}}, {"data": {"root": b"x"}}])
def test_invalid_recipes_in_checkpoints_are_reported(wrong: Any) -> None:
    with pytest.raises(RecipeError, match=r"^last\.pt: "):
        recipe_from_dict(wrong, "last.pt")


def is_a_path(text: str) -> bool:
    """Return whether a text is accepted as a path, and unchanged: without `~` and variables to expand."""
    return not text or (bool(text.strip()) and text[0] != "~" and "$" not in text)


numbers = st.floats(min_value=1e-12, max_value=0.99)
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20).filter(is_a_path) | st.sampled_from(
    ["no", "1e5", "1e-4", "010", "null", "", "2020-01-01", "true", "<<", "=", "a: b", "# c", "0x1f", "1:30", "1_0"]
)
recipes = st.builds(
    Recipe,
    name=st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", fullmatch=True),
    published_pq=st.none() | numbers,
    model=st.builds(
        PanopticSegFormerSettings,
        mask_bias=st.none() | numbers,
        dropout=numbers,
        backbone=st.just("swin_tiny"),
        frozen_stages=st.just(0),
    ),
    data=st.builds(
        DataSettings, root=texts, skip_bad_images=st.booleans(), flip_probability=numbers, workers=st.just(0)
    ),
    train=st.builds(
        TrainSettings,
        epochs=st.integers(1, 10**6),
        batch_size=st.just(3),
        images_per_forward=st.just(2),
        lr=numbers,
        weight_decay=numbers,
        clip_norm=numbers,
        slow_lr_factor=numbers,
        warmup_steps=st.integers(0, 9),
        max_steps=st.none() | st.integers(1, 9),
        drop_epochs=st.lists(st.integers(0, 50), unique=True).map(tuple),
        evaluate_every=st.just(1),
        log_every=st.just(1),
        seed=st.integers(0, 10**18 - 1),
    ),
    inference=st.just(MergingSettings(top_k=7)),
)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(recipes)
def test_recipes_round_trip_through_dictionaries_and_yaml(recipe: Recipe) -> None:
    plain = recipe_to_dict(recipe)
    assert json.loads(json.dumps(plain)) == plain
    assert recipe_from_dict(plain, "memory") == recipe
    assert recipe_from_dict(plain_yaml.parse(recipe_to_yaml(recipe)), "yaml") == recipe


def test_built_in_recipes_are_sorted_and_r50_is_the_default() -> None:
    found = built_in_recipes()
    assert list(found) == sorted(found)
    assert all(path.is_file() and path.stem == name for name, path in found.items())
    assert replace(load_recipe("r50"), name="custom", published_pq=None) == Recipe()
