"""Which run a command line starts or resumes, and with which recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from panformer_cli.data.categories import CategoryTable
from panformer_cli.engine.checkpoints.checkpoint import TrainingState, TrainProgress, save_checkpoint
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.start import Start, StartRequest, plan_start
from panformer_cli.engine.training.train import with_absolute_root
from panformer_cli.errors import PanformerError
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import load_recipe
from tests.engine.small import StopAfter

CATEGORIES = CategoryTable.from_coco([{"id": 1, "name": "thing", "isthing": 1}], "test")
SET = ("data.root=data", "train.lr=2e-4")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a temporary folder, since `runs/` is in the current folder."""
    monkeypatch.chdir(tmp_path)


def recipe_of(*overrides: str) -> Recipe:
    return with_absolute_root(load_recipe("tiny", overrides))


def saved(path: Path, step: int, recipe: Recipe) -> None:
    """Write a checkpoint with a training state, which is all that matters here."""
    state = TrainingState(random={"0.cpu": torch.get_rng_state()})
    save_checkpoint(path, nn.Linear(1, 1), recipe, CATEGORIES, TrainProgress(step), state)


def run_of(folder: str, *overrides: str, step: int | None = 3, **record: Any) -> RunFolder:
    """Write the folder of a run of `tiny` that was stopped after `step`, or before its first checkpoint."""
    run = RunFolder(Path(folder))
    run.start(recipe_of(*overrides), {"step": 0, **record})
    if step is not None:
        saved(run.last, step, recipe_of(*overrides))
    return run


def plan(recipe: str | None = "tiny", *overrides: str, **request: Any) -> tuple[Start, StopAfter]:
    reporter = StopAfter()
    return plan_start(StartRequest(recipe, overrides, **request), reporter), reporter


def test_a_new_run_has_the_recipe_and_the_overrides() -> None:
    start, _ = plan("tiny", *SET, out=Path("out"))
    assert (start.recipe, start.options.out, start.options.resume) == (recipe_of(*SET), Path("out"), False)
    assert start.recipe.data.root == str(Path("data").absolute())


@pytest.mark.parametrize(
    ("recipe", "request_of_run"),
    [
        (None, {"resume": "mine"}),
        (None, {"resume": True, "out": Path("mine")}),
        (None, {"resume": "mine", "out": Path("mine")}),
        ("mine/recipe.yaml", {"resume": True, "out": Path("mine")}),
        ("mine/recipe.yaml", {"resume": "mine"}),
    ],
)
def test_a_run_resumes_with_its_own_recipe(recipe: str | None, request_of_run: dict[str, Any]) -> None:
    run_of("mine", *SET)
    start, reporter = plan(recipe, **request_of_run)
    assert (start.recipe, start.options.out, start.options.resume) == (recipe_of(*SET), Path("mine"), True)
    assert not reporter.warnings


def test_overrides_apply_to_the_recipe_of_the_run() -> None:
    run_of("mine", *SET)
    start, reporter = plan(None, "train.epochs=40", "data.root=elsewhere", resume="mine")
    assert start.recipe == recipe_of("train.lr=2e-4", "train.epochs=40", "data.root=elsewhere")
    assert not reporter.warnings
    with pytest.raises(PanformerError, match=r"the recipe of mine with --set train\.ir=1: unknown key train\.ir"):
        plan(None, "train.ir=1", resume="mine")


def test_another_recipe_on_the_command_line_is_reported_and_not_used() -> None:
    run_of("mine", *SET, "train.epochs=7")
    start, reporter = plan("tiny", "train.lr=3e-4", resume=True, out=Path("mine"))
    assert start.recipe == recipe_of("data.root=data", "train.lr=3e-4", "train.epochs=7")
    (warning,) = reporter.warnings
    epochs = load_recipe("tiny").train.epochs
    assert warning == (
        "the recipe tiny differs from the one of the run in mine, which is used: train.epochs is 7 in the run and "
        f"{epochs} in tiny; to change a setting of the run, use --set"
    )


def test_an_edited_recipe_of_the_run_is_reported_too() -> None:
    run = run_of("mine", *SET)
    run.recipe.write_text(run.recipe.read_text().replace("lr: 0.0002", "lr: 0.5"))
    start, reporter = plan(str(run.recipe), resume=True, out=Path("mine"))
    assert start.recipe.train.lr == 2e-4
    assert "train.lr is 0.0002 in the run and 0.5 in mine/recipe.yaml" in reporter.warnings[0]


def test_a_flag_before_the_recipe_is_not_the_name_of_a_run() -> None:
    run_of("mine", *SET)
    start, _ = plan(None, *SET, resume="tiny", out=Path("mine"))
    assert (start.recipe, start.options.out, start.options.resume) == (recipe_of(*SET), Path("mine"), True)


@pytest.mark.parametrize(
    ("recipe", "wrong", "said"),
    [
        (None, {}, "no recipe was given; expected RECIPE, or a run to resume: --resume RUN"),
        (None, {"resume": True}, "no recipe was given"),
        (None, {"resume": "auto", "out": Path("mine")}, "no recipe was given"),
        (
            None,
            {"resume": "nowhere"},
            "--resume 'nowhere': this folder does not exist; expected the folder of a run, or auto",
        ),
        ("tiny", {"resume": "nowhere"}, "--resume 'nowhere': this folder does not exist"),
        (None, {"resume": ""}, "--resume '': this folder does not exist"),
        (None, {"resume": "mine/last.safetensors"}, r"--resume mine/last\.safetensors is a file; .*such as mine$"),
        (None, {"resume": "mine", "out": Path("other")}, "--resume mine and --out other are two folders; omit --out"),
        (None, {"resume": "empty"}, "--resume: empty has no last.safetensors; give the folder of a run"),
        (None, {"resume": "mine", "init_from": Path("x")}, "--resume and --init-from are both given"),
    ],
)
def test_a_run_that_cannot_be_resumed(recipe: str | None, wrong: dict[str, Any], said: str) -> None:
    run_of("mine", *SET)
    Path("empty").mkdir()
    with pytest.raises(PanformerError, match=f"^{said}"):
        plan(recipe, *SET, **wrong)


def test_auto_starts_a_run_and_then_resumes_it() -> None:
    """The same command line; there is nothing at first, then a folder without a checkpoint, then a checkpoint."""
    start, reporter = plan("tiny", *SET, resume="auto")
    assert (start.options.out, start.options.resume, start.recipe) == (None, False, recipe_of(*SET))
    assert reporter.messages == ["There is no run in runs/tiny to resume: starting a new one"]
    run = run_of("runs/tiny/2030-01-01", *SET, step=None)
    start, reporter = plan("tiny", *SET, resume="auto")
    assert (start.options.out, start.options.resume, start.recipe) == (run.path, False, recipe_of(*SET))
    assert reporter.messages == [f"The run in {run.path} has no checkpoint yet: starting from its beginning"]
    saved(run.last, 3, recipe_of(*SET))
    run_of("runs/tiny/2031-01-01", *SET, "train.seed=1")
    start, reporter = plan("tiny", *SET, resume="auto")
    assert (start.options.out, start.options.resume, start.recipe) == (run.path, True, recipe_of(*SET))
    assert (reporter.messages, reporter.warnings) == ([], [])


def test_auto_starts_a_new_run_for_other_settings_and_says_why() -> None:
    run = run_of("runs/tiny/2030-01-01", *SET)
    start, reporter = plan("tiny", "data.root=data", "train.lr=3e-4", resume="auto")
    assert (start.options.out, start.options.resume) == (None, False)
    assert reporter.messages == [
        f"No run in runs/tiny has these settings: starting a new one. The newest run, {run.path}, has others: train.lr "
        "is 0.0002 there and 0.0003 now"
    ]


def test_auto_finds_a_run_whose_settings_were_changed_since() -> None:
    run = run_of("runs/tiny/2030-01-01", *SET)
    changed = recipe_of(*SET, "train.epochs=40")
    run.start(changed, {"step": 3})
    saved(run.last, 5, changed)
    start, reporter = plan("tiny", *SET, resume="auto")
    assert (start.options.out, start.recipe) == (run.path, changed)
    assert "train.epochs is 40 in the run and" in reporter.warnings[0]


def test_auto_ignores_folders_without_a_readable_recipe() -> None:
    run = run_of("runs/tiny/2030-01-01", *SET)
    for name, text in (("2031", ""), ("2032", "train: {unknown: 1}"), ("2033", "\0")):
        Path("runs/tiny", name).mkdir()
        Path("runs/tiny", name, "recipe.yaml").write_text(text)
    assert plan("tiny", *SET, resume="auto")[0].options.out == run.path


def test_auto_uses_the_folder_that_is_given() -> None:
    start, _ = plan("tiny", *SET, resume="auto", out=Path("mine"))
    assert (start.options.out, start.options.resume) == (Path("mine"), False)
    run_of("mine", *SET)
    start, reporter = plan("tiny", "train.lr=5e-4", resume="auto", out=Path("mine"))
    assert (start.options.out, start.options.resume) == (Path("mine"), True)
    assert start.recipe == recipe_of("data.root=data", "train.lr=5e-4")
    assert not reporter.warnings


def test_initial_weights_are_used_until_there_is_a_checkpoint() -> None:
    weights = Path("weights.safetensors")
    saved(weights, 0, recipe_of(*SET))
    wanted = {"resume": "auto", "out": Path("mine"), "init_from": weights}
    assert plan("tiny", *SET, **wanted)[0].options.init_from == weights
    run = run_of("mine", *SET, step=None, init_from=str(weights))
    assert plan("tiny", *SET, **wanted)[0].options.init_from == weights
    assert plan(None, resume="mine")[0].options.init_from == weights
    saved(run.last, 1, recipe_of(*SET))
    start, _ = plan("tiny", *SET, **wanted)
    assert (start.options.init_from, start.options.resume) == (None, True)


def test_the_newest_run_of_the_recipe_is_resumed_without_a_name() -> None:
    run_of("runs/tiny/b", *SET)
    newest = run_of("runs/tiny/a", *SET, "train.epochs=5")
    start, _ = plan("tiny", resume=True)
    assert (start.options.out, start.recipe.train.epochs) == (newest.path, 5)


def test_a_corrupt_last_checkpoint_is_not_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest is the one with the most steps, not the last by name or time."""
    run = run_of("mine", *SET)
    for step in (100, 9, 10):
        saved(run.step_checkpoint(step), step, recipe_of(*SET, f"train.epochs={step}"))
    for damage in (run.last.read_bytes()[:-1], b"", b"\0" * 100):
        run.last.write_bytes(damage)
        assert plan(None, resume="mine")[0].recipe.train.epochs == 100
    run.step_checkpoint(100).write_bytes(b"")
    assert plan(None, resume="mine")[0].recipe.train.epochs == 10
    for path in run.step_checkpoints:
        path.unlink()
    with pytest.raises(PanformerError, match=r"the run in mine has no checkpoint to resume from: .*last\.safetensors"):
        plan(None, resume="mine")


def test_earlier_recipes_and_records_are_kept() -> None:
    run = run_of("mine", *SET, time="first")
    run.start(recipe_of(*SET), {"step": 3, "time": "second"})
    assert [path.name for path in run.recipes] == ["recipe.yaml"]
    run.start(recipe_of(*SET, "train.epochs=40"), {"step": 5, "time": "third"})
    assert [path.name for path in run.recipes] == ["recipe.yaml", "recipe-before-step-5.yaml"]
    assert load_recipe(str(run.recipes[1])) == recipe_of(*SET)
    assert [(record["step"], record["time"]) for record in run.starts] == [(0, "first"), (3, "second"), (5, "third")]


def test_a_record_of_an_earlier_version_is_kept() -> None:
    run = run_of("mine", *SET)
    run.environment.write_text('{"torch": "2.0"}')
    run.start(recipe_of(*SET), {"step": 3})
    assert run.starts == [{"torch": "2.0"}, {"step": 3}]
