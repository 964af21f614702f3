"""What a resumed run reports about changed settings, and that it refuses to be past its end."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from panformer_cli.data.categories import CategoryTable
from panformer_cli.engine.checkpoints.checkpoint import Checkpoint, TrainProgress
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.resume import report_changes
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.errors import PanformerError
from panformer_cli.recipe_io import load_recipe
from tests.engine.small import ALONE, StopAfter, run_small, small_recipe, small_scenes
from tests.engine.training.toy import use_toy_runs
from tests.helpers import run

CATEGORIES = CategoryTable.from_coco([{"id": 1, "name": "thing", "isthing": 1}], "test")
SETTINGS = ("train.epochs=4", "train.schedule=constant", "train.lr=1e-4", "train.warmup_steps=0")


def resumed(step: int, before: int, now: int, *overrides: str, lr_factor: float = 1.0) -> StopAfter:
    """Return what is reported when a run of 4 epochs resumes after `step`.

    Args:
        step: Completed steps.
        before: Steps per epoch until now.
        now: Steps per epoch from now on.
        overrides: Changed settings.
        lr_factor: Factor on the learning rate, after rollbacks.
    """
    progress = TrainProgress(step, steps_per_epoch=before, lr_factor=lr_factor)
    checkpoint = Checkpoint(Path("last"), load_recipe("tiny", SETTINGS), CATEGORIES, progress, True, "test")
    reporter = StopAfter()
    report_changes(checkpoint, load_recipe("tiny", [*SETTINGS, *overrides]), now, reporter)
    return reporter


@pytest.mark.parametrize(
    ("now", "overrides", "reason"),
    [
        (5, (), r"train.epochs=4 of 5 steps (an epoch had 24 steps before) it would have only 20"),
        (1, (), r"train.epochs=4 of 1 step (an epoch had 24 steps before) it would have only 4"),
        (24, ("train.epochs=1", "train.drop_epochs=[]"), r"train.epochs=1 of 24 steps it would have only 24"),
        (24, ("train.max_steps=30",), r"train.max_steps=30 it would have only 30"),
    ],
)
def test_a_run_past_its_end_is_refused(now: int, overrides: tuple[str, ...], reason: str) -> None:
    with pytest.raises(PanformerError) as caught:
        resumed(48, 24, now, *overrides)
    key = reason.partition("=")[0]
    assert str(caught.value) == (
        f"--resume: the run has already completed 48 steps, but with {reason}; resume with the data set and settings "
        f"of the run, or raise {key}"
    )


def test_a_run_at_its_end_is_not_refused() -> None:
    assert resumed(48, 24, 24, "train.max_steps=48").warnings == []
    (warning,) = resumed(48, 24, 12).warnings
    assert warning.startswith("an epoch had 24 steps and now has 12, because the number of training images ")
    assert warning.endswith("; the run resumes after step 48, in epoch 4")


def test_old_and_new_values_of_changed_settings_are_reported() -> None:
    reporter = resumed(48, 24, 24, "train.lr=3e-5", "data.workers=0", lr_factor=0.5)
    assert reporter.messages == [
        "Changed setting: data.workers was 1 and is now 0",
        "Changed setting: train.lr was 0.0001 and is now 3e-05",
    ]
    assert reporter.warnings == [
        "the learning rate of step 49 changes from 5e-05 to 1.5e-05: it follows the settings from now on"
    ]


@pytest.mark.slow
def test_a_smaller_data_set_and_another_rate_at_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of 8 images, 2 steps per epoch, that was stopped after step 6 of 8."""
    use_toy_runs(monkeypatch)
    data, folder = small_scenes(tmp_path / "data"), RunFolder(tmp_path / "run")
    run_small(small_recipe(data, "train.epochs=3", "train.lr=1e-4"), folder.path)
    before = folder.last.read_bytes()

    moved = tmp_path / "data of before"
    shutil.move(data, moved)
    small_scenes(data, train_images=2)
    with pytest.raises(PanformerError, match="completed 6 steps, but with train.epochs=4 of 1 step .* only 4; "):
        recipe = small_recipe(data, "train.epochs=4", "train.lr=1e-4")
        train(recipe, TrainOptions(folder.path, resume=True), ALONE, StopAfter())
    assert folder.last.read_bytes() == before
    shutil.rmtree(data)
    shutil.move(moved, data)

    changes = ("--set", "train.lr=2e-5", "--set", "train.epochs=4")
    assert run("train", "--resume", str(folder.path), "--device", "cpu", *changes) == 0
    printed = " ".join(re.sub(r"\s+", " ", text) for text in capsys.readouterr())
    assert "Changed setting: train.lr was 0.0001 and is now 2e-05" in printed
    assert "the learning rate of step 7 changes from 0.0001 to 2e-05" in printed
    rows = [json.loads(line) for line in folder.metrics.read_text(encoding="utf-8").splitlines()]
    changed = [row["changed"] for row in rows if row["kind"] == "resume"]
    assert changed == [{"train.lr": [1e-4, 2e-5], "train.epochs": [3, 4]}]
    assert [row["lr"] for row in rows if row["kind"] == "train"] == pytest.approx([1e-4] * 6 + [2e-5] * 2)
