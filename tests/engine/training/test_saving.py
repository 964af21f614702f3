"""Nothing that is in memory is lost by an error between two steps, and a run keeps the checkpoints it is told to."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import tempfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from panformer_cli.data.loading import TrainLoader
from panformer_cli.engine.checkpoints import kept_checkpoints, run_checkpoints
from panformer_cli.engine.checkpoints.checkpoint import TrainProgress, read_checkpoint, save_checkpoint
from panformer_cli.engine.checkpoints.kept_checkpoints import keep_last, remove_others
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.train import RunResult, TrainOptions, train
from panformer_cli.engine.training.trainer import Trainer
from panformer_cli.engine.training.validation import Validation
from panformer_cli.errors import DataError, PanformerError, WriteError
from panformer_cli.recipe import Recipe
from panformer_cli.reporting import SilentReporter
from panformer_cli.settings import TrainSettings
from tests.engine.ranks import in_processes
from tests.engine.small import ALONE, StopAfter, run_small, small_recipe, small_scenes
from tests.engine.training.toy import toy_model, use_toy_runs

FULL = OSError(28, "No space left on device")


def rows(run: RunFolder) -> list[tuple[str, int]]:
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [(line["kind"], line["step"]) for line in lines]


def failing(times: int, work: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """Return a function that raises the error for a number of times, and then does the work."""
    left = [times]

    def attempt(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return work(*arguments, **named)

    return attempt


def without_batches_after(step: int, error: Exception) -> Callable[..., Iterator[Any]]:
    """Return a replacement of `TrainLoader.epoch` that raises the error instead of the batches after a step."""
    original = TrainLoader.epoch

    def epoch(self: TrainLoader, number: int, first_step: int = 0) -> Iterator[Any]:
        for index, batches in enumerate(original(self, number, first_step), start=number * self.steps_per_epoch):
            if index + first_step == step:
                raise error
            yield batches

    return epoch


@pytest.mark.slow
@pytest.mark.parametrize("error", [DataError("000001.png is corrupt"), MemoryError("out of memory")])
def test_steps_before_images_that_cannot_be_loaded_are_saved(
    error: Exception, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, recipe = RunFolder(tmp_path / "run"), small_recipe(scenes, "train.max_steps=2")
    with monkeypatch.context() as patch:
        patch.setattr(TrainLoader, "epoch", without_batches_after(1, error))
        with pytest.raises(type(error)) as caught:
            run_small(recipe, run.path)
    saved = "; step 1 of 2 is saved" if isinstance(error, PanformerError) else ""
    assert str(caught.value) == f"{error}{saved}"
    assert read_checkpoint(run.last).progress.step == 1
    run_small(recipe, run.path, resume=True)
    assert rows(run) == [("train", 1), ("train", 2), ("eval", 2)]


def test_a_disk_that_is_full_at_the_end_hides_no_other_error(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last checkpoint and its copy elsewhere cannot be written after the images of step 2 could not be loaded."""
    use_toy_runs(monkeypatch)
    monkeypatch.setattr(TrainLoader, "epoch", without_batches_after(1, DataError("000001.png is corrupt")))
    monkeypatch.setattr(run_checkpoints, "save_checkpoint", failing(99, save_checkpoint, WriteError("full")))
    monkeypatch.setattr(run_checkpoints, "PATIENCE_SECONDS", 0.0)
    reporter = StopAfter()
    with pytest.raises(DataError, match=r"^000001\.png is corrupt; nothing is saved$"):
        train(small_recipe(scenes, "train.max_steps=2"), TrainOptions(tmp_path / "run"), ALONE, reporter)
    assert reporter.warnings == ["full; it is tried again before the run ends", "full"]


@pytest.mark.slow
def test_rows_that_cannot_be_written_are_written_later(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, reporter = RunFolder(tmp_path / "run"), StopAfter()
    monkeypatch.setattr(RunFolder, "log", failing(2, RunFolder.log, WriteError("cannot write metrics.jsonl: full")))
    train(small_recipe(scenes, "train.max_steps=2"), TrainOptions(run.path), ALONE, reporter)
    assert rows(run) == [("train", 1), ("train", 2), ("eval", 2)]
    assert reporter.warnings == ["cannot write metrics.jsonl: full; the lines are written as soon as possible"]


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while_costs_nothing(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 images in steps of 4: saved before and after the evaluation of step 2, and again at the end."""
    run, reporter = RunFolder(tmp_path / "run"), StopAfter()
    full = WriteError("cannot write last.safetensors: full")
    monkeypatch.setattr(run_checkpoints, "save_checkpoint", failing(5, save_checkpoint, full))
    monkeypatch.setattr(run_checkpoints, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    result = train(small_recipe(scenes, "train.max_steps=2"), TrainOptions(run.path), ALONE, reporter)
    assert result == RunResult(run, ended=True, saved_step=2, total_steps=2)
    assert read_checkpoint(run.last).progress.step == read_checkpoint(run.best).progress.step == 2
    assert read_checkpoint(run.last).progress.evaluated_step == 2
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert [warning.partition("; ")[2] for warning in reporter.warnings] == [
        "it is tried again before the run ends",
        "the best model is not saved",
        "it is tried again before the run ends",
        "the run ends as soon as it can be written, within 600 s",
    ]


@pytest.mark.slow
def test_a_run_whose_disk_stays_full_ends_with_a_copy_elsewhere(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")

    def write(path: Path, *others: Any) -> None:
        if path.parent == run.path:
            raise WriteError(f"cannot write {path}: full")
        save_checkpoint(path, *others)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    recipe = small_recipe(scenes, "train.max_steps=3")
    with monkeypatch.context() as patch:
        patch.setattr(run_checkpoints, "save_checkpoint", write)
        patch.setattr(run_checkpoints, "STOP_SECONDS", 0.0)
        stopping = StopAfter(1, lambda: signal.raise_signal(signal.SIGTERM))
        copy = tmp_path / "panformer-run-step-1.safetensors"
        said = f"cannot write {run.last}: full; step 1 is saved in {copy}; to resume, move it to {run.last}"
        with pytest.raises(WriteError, match=f"^{said}$"):
            train(recipe, TrainOptions(run.path), ALONE, stopping)
    copy.rename(run.last)
    run_small(recipe, run.path, resume=True)
    assert rows(run) == [("train", 1), ("train", 2), ("eval", 2), ("train", 3), ("eval", 3)]


@pytest.mark.slow
def test_a_folder_that_was_deleted_is_written_again(scenes: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    reporter = StopAfter(1, lambda: shutil.rmtree(run.path))
    train(small_recipe(scenes, "train.max_steps=2"), TrainOptions(run.path), ALONE, reporter)
    assert {"recipe.yaml", "metrics.jsonl", "last.safetensors", "best.safetensors"} <= {
        path.name for path in run.path.iterdir()
    }
    assert rows(run) == [("train", 1), ("train", 2), ("eval", 2)]


@pytest.mark.slow
def test_another_error_between_two_steps_saves_the_run(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(5, "Input/output error")  # a terminal that was closed

    run = RunFolder(tmp_path / "run")
    monkeypatch.setattr(run_checkpoints, "save_checkpoint", failing(1, save_checkpoint, WriteError("full")))
    monkeypatch.setattr(run_checkpoints, "POLL_SECONDS", 0.0)
    reporter = StopAfter(1, fail)
    with pytest.raises(OSError, match="Input/output error"):
        train(small_recipe(scenes, "train.max_steps=2"), TrainOptions(run.path), ALONE, reporter)
    assert read_checkpoint(run.last).progress.step == 1
    assert reporter.warnings == ["full; it is tried again before the run ends"]


@pytest.mark.slow
def test_a_killed_data_worker_is_one_sentence_and_the_run_is_saved(scenes: Path, tmp_path: Path) -> None:
    def kill() -> None:
        own = Path("/proc/self/cmdline").read_bytes()
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for child in children:
            if Path(f"/proc/{child}/cmdline").read_bytes() == own:  # forked, not the resource tracker
                os.kill(int(child), signal.SIGKILL)

    run = RunFolder(tmp_path / "run")
    recipe = small_recipe(scenes, "train.epochs=200", "train.evaluate_every=200", "data.workers=1")
    with pytest.raises(PanformerError, match=r"^a data loading worker died .*; step \d+ of 400 is saved$"):
        train(recipe, TrainOptions(run.path), ALONE, StopAfter(1, kill))
    assert read_checkpoint(run.last).progress.step >= 1


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """8 training images, and 2 validation images of which one is truncated."""
    data = small_scenes(tmp_path / "damaged", 8, 2)
    image = data / "images" / "val" / "000001.png"
    shutil.copy(image, tmp_path / "whole.png")
    image.write_bytes(image.read_bytes()[:200])
    return data


@pytest.mark.slow
def test_a_failed_evaluation_is_reported_and_repeated_and_training_continues(damaged: Path, tmp_path: Path) -> None:
    run, reporter = RunFolder(tmp_path / "run"), StopAfter()
    recipe = small_recipe(damaged, "train.max_steps=3", "data.check_validation=false")
    result = train(recipe, TrainOptions(run.path), ALONE, reporter)
    assert result == RunResult(run, ended=True, saved_step=3, total_steps=3)
    first, second = reporter.warnings
    assert first.startswith("the evaluation after step 2 failed: ")
    assert "000001.png" in first
    assert first.endswith("; training continues, and evaluates later")
    assert second.endswith("; resume the run to evaluate again")
    assert rows(run) == [("train", 1), ("train", 2), ("train", 3)]
    shutil.copy(tmp_path / "whole.png", damaged / "images" / "val" / "000001.png")
    run_small(recipe, run.path, resume=True)
    assert rows(run)[-1] == ("eval", 3)
    assert run.best.is_file()


@pytest.mark.slow
def test_validation_images_that_cannot_be_used_can_be_skipped(damaged: Path, tmp_path: Path) -> None:
    run, reporter = RunFolder(tmp_path / "run"), StopAfter()
    recipe = small_recipe(damaged, "train.max_steps=1", "data.skip_bad_images=true")
    train(recipe, TrainOptions(run.path), ALONE, reporter)
    before, warning = reporter.warnings
    assert before.startswith("1 of 2 validation images cannot be used, so PQ is without them:\n  ")
    assert warning.startswith("PQ is without 1 validation image that cannot be used: ")
    assert rows(run) == [("train", 1), ("eval", 1)]


def failing_on_rank_1(process: Process, recipe: Recipe, out: Path) -> tuple[str, list[str]]:
    """Train with an evaluation that fails on rank 1, and images that rank 1 cannot load for step 4."""
    reporter = StopAfter()
    if process.rank == 1:
        TrainLoader.epoch = without_batches_after(3, DataError("x.png is corrupt"))  # type: ignore[method-assign]
        Trainer.__init__ = broken_validation(Trainer.__init__)  # type: ignore[method-assign]
    try:
        train(recipe, TrainOptions(out), process, reporter)
    except DataError as error:
        return str(error), reporter.warnings
    return "", reporter.warnings


def broken_validation(initialize: Callable[..., None]) -> Callable[..., None]:
    class Broken:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            raise DataError("v.png is corrupt")

    def wrapped(self: Trainer, *arguments: Any, **named: Any) -> None:
        initialize(self, *arguments, **named)
        self.validation.dataset = Broken()  # type: ignore[assignment]

    return wrapped


@pytest.mark.slow
def test_a_failure_of_one_rank_is_handled_by_all(scenes: Path, tmp_path: Path) -> None:
    recipe = small_recipe(scenes, "train.max_steps=4", "train.images_per_forward=2")
    run = RunFolder(tmp_path / "run")
    outcomes = in_processes(2, failing_on_rank_1, recipe, run.path)
    warning = "the evaluation after step 2 failed: v.png is corrupt; training continues, and evaluates later"
    assert outcomes == 2 * [("x.png is corrupt; step 3 of 4 is saved", [warning])]
    assert read_checkpoint(run.last).progress.step == 3


@pytest.mark.slow
def test_a_worse_model_after_a_resume_leaves_the_best_one(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The PQ of each evaluation: not a number, 5, then after a resume 4, 6."""
    run = RunFolder(tmp_path / "run")

    def scores(*values: float) -> None:
        left = iter(values)
        original = Validation._evaluated

        class Panoptic:
            def __init__(self, result: Any) -> None:
                self._result = result

            def result(self) -> Any:
                return replace(self._result, all=replace(self._result.all, pq=next(left)))

        def evaluated(self: Validation, *arguments: Any) -> Any:
            evaluator = original(self, *arguments)
            assert evaluator is not None
            evaluator.panoptic = Panoptic(evaluator.panoptic.result())  # type: ignore[assignment]
            return evaluator

        monkeypatch.setattr(Validation, "_evaluated", evaluated)

    def best() -> str:
        return hashlib.sha256(run.best.read_bytes()).hexdigest()

    scores(float("nan"), 5.0)
    run_small(small_recipe(scenes, "train.epochs=2"), run.path)
    assert read_checkpoint(run.best).progress.best_pq == 5.0
    before = best()
    monkeypatch.undo()
    scores(4.0)
    run_small(small_recipe(scenes, "train.epochs=3"), run.path, resume=True)
    assert best() == before
    assert read_checkpoint(run.last).progress.best_pq == 5.0
    monkeypatch.undo()
    scores(6.0)
    run_small(small_recipe(scenes, "train.epochs=4"), run.path, resume=True)
    assert best() != before


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (TrainSettings(keep_last=2), [6, 7]),
        (TrainSettings(keep_last=5), [3, 4, 5, 6, 7]),
        (TrainSettings(keep_every=2), [4]),
        (TrainSettings(keep_last=1, keep_every=1), [2, 4, 6, 7]),
        (TrainSettings(keep_last=99), [1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_the_newest_checkpoints_and_those_of_some_epochs_are_kept(
    settings: TrainSettings, kept: list[int], tmp_path: Path
) -> None:
    """A run with 2 steps per epoch that saves every step, and had once been at step 100."""
    run = RunFolder(tmp_path)
    run.best.write_text("best")
    run.step_checkpoint(100).write_text("later")
    for step in range(1, 9):
        if step > 1:
            keep_last(run, step - 1)
        new = tmp_path / "new"
        new.write_text(str(step))
        new.replace(run.last)
        remove_others(run, settings, TrainProgress(step, steps_per_epoch=2))
    assert {path.name: path.read_text() for path in run.path.iterdir()} == {
        "best.safetensors": "best",
        "last.safetensors": "8",
        **{f"step-{step}.safetensors": str(step) for step in kept},
    }


def test_the_best_evaluated_checkpoints_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PQ of steps 1 to 7, of which 3 and 6 were not evaluated; of equal ones the later one is better."""
    run, scores = RunFolder(tmp_path), [30.0, 50.0, None, 40.0, 50.0, None, 20.0]
    monkeypatch.setattr(kept_checkpoints, "recorded_pq", lambda path: scores[run.step_of(path) - 1])
    seen = []
    for step in range(1, 9):
        if step > 1:
            keep_last(run, step - 1)
        run.last.unlink(missing_ok=True)
        run.last.touch()
        remove_others(run, TrainSettings(keep_best=2), TrainProgress(step, steps_per_epoch=1))
        seen.append([run.step_of(path) for path in run.step_checkpoints])
    assert seen == [[], [1], [1, 2], [1, 2], [2, 4], [2, 5], [2, 5], [2, 5]]


@pytest.mark.slow
def test_a_run_keeps_its_best_evaluations_for_an_average(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four evaluations of two steps each, all saved before and after; the second and the third are the best."""
    scores = iter([10.0, 30.0, 20.0, 5.0])
    use_toy_runs(monkeypatch, lambda _: next(scores))
    run = RunFolder(run_small(small_recipe(scenes, "train.epochs=4", "train.keep_best=2"), tmp_path / "run"))
    assert [run.step_of(path) for path in run.step_checkpoints] == [4, 6]
    best = [(path.name, pq) for path, pq in kept_checkpoints.best_checkpoints(run, 3)]
    assert best == [("best.safetensors", 30.0), ("step-6.safetensors", 20.0), ("last.safetensors", 5.0)]


def test_a_last_checkpoint_that_was_deleted_is_not_kept(tmp_path: Path) -> None:
    keep_last(RunFolder(tmp_path / "deleted"), 3)
    assert list(tmp_path.iterdir()) == []


def test_the_epochs_to_keep_are_saved_although_they_are_not_evaluated(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps per epoch; only epochs 3 and 5 are evaluated."""
    use_toy_runs(monkeypatch)
    recipe = small_recipe(scenes, "train.epochs=5", "train.evaluate_every=3", "train.keep_every=2")
    run = RunFolder(run_small(recipe, tmp_path / "run"))
    assert [read_checkpoint(path).progress.step for path in run.step_checkpoints] == [4, 8]
    assert [step for kind, step in rows(run) if kind == "eval"] == [6, 10]


@pytest.mark.slow
def test_a_run_resumes_from_a_kept_checkpoint_if_the_last_is_corrupt(scenes: Path, tmp_path: Path) -> None:
    recipe = small_recipe(scenes, "train.max_steps=4", "train.keep_last=1", "train.save_minutes=1e-9")
    run = RunFolder(run_small(recipe, tmp_path / "run"))
    whole = tensors(run.last)
    assert [run.step_of(path) for path in run.step_checkpoints] == [3]
    run.last.write_bytes(run.last.read_bytes()[:5000])
    reporter = StopAfter()
    assert train(recipe, TrainOptions(run.path, resume=True), ALONE, reporter).ended
    assert "corrupt or truncated" in reporter.warnings[0]
    assert reporter.warnings[0].endswith("; resuming from step-3.safetensors (step 3) instead")
    assert all(torch.equal(value, whole[name]) for name, value in tensors(run.last).items())
    assert [run.step_of(path) for path in run.step_checkpoints] in ([], [3])


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return copies of all tensors in a file, which may be truncated later."""
    return {name: value.clone() for name, value in load_file(path).items()}


@pytest.mark.slow
def test_too_little_space_is_reported_before_the_first_step(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    run, recipe = RunFolder(tmp_path / "run"), small_recipe(scenes, "train.max_steps=1", "train.keep_every=1")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 4_000_000))
    said = r"run: the disk has 4 MB free, but last\.safetensors and best\.safetensors need \d+ MB; free some space"
    with pytest.raises(PanformerError, match=said):
        train(recipe, TrainOptions(run.path), ALONE, SilentReporter())
    assert not run.last.exists()


def test_the_space_for_everything_that_a_run_can_keep_is_checked(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The toy has 28 weights and 10 statistics of 4 bytes, and 2 counters of 8: 168 bytes, and 392 with both moments.

    Two of `last`, `best`, two kept epochs, and a record of a bad step from each of three processes.
    """
    usage = namedtuple("usage", "total used free")
    run, recipe, needed = RunFolder(tmp_path), small_recipe(scenes, "train.keep_every=2"), 4 * 392 + (1 + 3) * 168
    for free, bad_step, warnings in ((needed, None, 0), (needed - 1, None, 1), (needed - 1, run.bad_step(3, 0), 0)):
        if bad_step is not None:
            bad_step.touch()
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage(0, 0, free))
        reporter = StopAfter()
        run_checkpoints.check_space(run, toy_model(), recipe, 5, 3, reporter)
        assert len(reporter.warnings) == warnings


@pytest.mark.slow
def test_a_stop_before_the_first_step_leaves_a_run_that_resumes(scenes: Path, tmp_path: Path) -> None:
    class AtOnce(StopAfter):
        def progress(self, what: str, total: int, done: int = 0) -> Any:
            if what == "Training":
                signal.raise_signal(signal.SIGTERM)
            return super().progress(what, total, done)

    run, recipe = RunFolder(tmp_path / "run"), small_recipe(scenes, "train.max_steps=1")
    result = train(recipe, TrainOptions(run.path), ALONE, AtOnce())
    assert result == RunResult(run, ended=False, saved_step=0, total_steps=1)
    assert run_small(recipe, run.path, resume=True)
    assert rows(run) == [("train", 1), ("eval", 1)]
    records = json.loads(run.environment.read_text())
    assert [record["step"] for record in records] == [0, 0]
