"""A run as a whole: what it leaves behind, and that stopping, sharing and accumulating change nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from panformer_cli.engine.checkpoints.checkpoint import MODEL, OPTIMIZER, RANDOM, read_checkpoint, read_tensors
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.train import RunResult, TrainOptions, train
from panformer_cli.errors import CheckpointError, DataError, PanformerError, RecipeError
from panformer_cli.recipe_io import load_recipe
from panformer_cli.reporting import Progress, SilentReporter
from tests.engine.small import ALONE, StopAfter, run_small, small_checkpoint, small_recipe, small_scenes


def rows(run: RunFolder, kind: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def tensors(path: Path) -> dict[str, Tensor]:
    """Everything in a checkpoint: weights, optimiser, random state."""
    return {
        prefix + name: value
        for prefix in (MODEL, OPTIMIZER, RANDOM)
        for name, value in read_tensors(path, prefix).items()
    }


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_what_a_run_leaves_behind(trained: RunFolder, scenes: Path) -> None:
    assert {path.name for path in trained.path.iterdir()} == {
        "recipe.yaml",
        "environment.json",
        "metrics.jsonl",
        "last.safetensors",
        "best.safetensors",
    }
    recipe = small_recipe(scenes, "train.max_steps=4", "model.dropout=0.2")
    assert load_recipe(str(trained.recipe)) == recipe
    (record,) = json.loads((trained.path / "environment.json").read_text())
    assert (record["torch"], record["step"]) == (torch.__version__, 0)
    last, best = read_checkpoint(trained.last), read_checkpoint(trained.best)
    assert last.recipe == best.recipe == recipe
    assert (last.progress.step, last.training_state, best.training_state) == (4, True, False)
    assert last.progress.best_pq == max(row["pq"] for row in rows(trained, "eval"))


def test_the_log_has_a_line_for_each_step_and_each_evaluation(trained: RunFolder) -> None:
    train_rows, eval_rows = rows(trained, "train"), rows(trained, "eval")
    assert [(row["step"], row["epoch"]) for row in train_rows] == [(1, 0), (2, 0), (3, 1), (4, 1)]
    assert [row["step"] for row in eval_rows] == [2, 4]
    for row in train_rows:
        assert row["loss"] == pytest.approx(sum(row["losses"].values()))  # type: ignore[attr-defined]
        assert row["loss"] > 0
    assert {"pq", "sq", "rq", "pq_things", "pq_stuff"} <= set(eval_rows[0])


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_stopped_and_resumed_is_as_never_stopped(
    stop_after: int, trained: RunFolder, scenes: Path, tmp_path: Path
) -> None:
    recipe = small_recipe(scenes, "train.max_steps=4", "model.dropout=0.2")
    run = RunFolder(tmp_path / "run")
    stopped = train(recipe, TrainOptions(run.path), ALONE, StopAfter(stop_after, interrupt))
    assert stopped == RunResult(run, ended=False, saved_step=stop_after, total_steps=4)
    assert read_checkpoint(run.last).progress.step == stop_after
    torch.manual_seed(12345)  # a new process would not have our random state
    run_small(recipe, run.path, resume=True)
    resumed, straight = tensors(run.last), tensors(trained.last)
    assert resumed.keys() == straight.keys()
    assert any(name.startswith(OPTIMIZER) for name in straight)
    assert any(name.startswith(RANDOM) for name in straight)
    for name, value in straight.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=1e-6, msg=name)
    assert [row["loss"] for row in rows(run, "train")] == pytest.approx([row["loss"] for row in rows(trained, "train")])


@pytest.mark.slow
def test_the_random_state_is_needed_for_that(trained: RunFolder, scenes: Path, tmp_path: Path) -> None:
    """The test above would be worth nothing if nothing were drawn at random while training."""
    run = RunFolder(run_small(small_recipe(scenes, "train.max_steps=1", "model.dropout=0.2"), tmp_path / "run"))
    weights = read_tensors(run.last, RANDOM)
    torch.manual_seed(0)
    assert not torch.equal(weights["0.cpu"], read_tensors(trained.last, RANDOM)["0.cpu"])


@pytest.mark.slow
def test_an_extended_run_goes_on_where_it_ended(scenes: Path, tmp_path: Path) -> None:
    run = RunFolder(run_small(small_recipe(scenes, "train.max_steps=1"), tmp_path / "run"))
    run_small(small_recipe(scenes, "train.max_steps=2"), run.path, resume=True)
    assert [row["step"] for row in rows(run, "train")] == [1, 2]
    assert read_checkpoint(run.last).progress.step == 2


@pytest.mark.slow
def test_accumulated_gradients_are_those_of_one_forward_pass(scenes: Path, tmp_path: Path) -> None:
    """Compared in AdamW's first moment after one step, a tenth of the gradient: the step itself is little but its sign,
    and magnifies the rounding of gradients near zero."""
    gradients = []
    for together in (1, 2, 4):
        recipe = small_recipe(
            scenes, "train.max_steps=1", f"train.images_per_forward={together}", "model.frozen_batch_norm=true"
        )
        moments = read_tensors(run_small(recipe, tmp_path / str(together)) / "last.safetensors", OPTIMIZER)
        gradients.append({name: value for name, value in moments.items() if name.endswith("exp_avg")})
    for name, value in gradients[0].items():
        for other in gradients[1:]:
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-5 * float(value.abs().max()), msg=name)
    assert sum(float(value.square().sum()) for value in gradients[0].values()) ** 0.5 == pytest.approx(0.01, rel=1e-3)


@pytest.mark.slow
def test_a_run_may_begin_with_the_weights_of_another(trained: RunFolder, scenes: Path, tmp_path: Path) -> None:
    recipe = small_recipe(scenes, "train.max_steps=1", "model.dropout=0.2", "train.lr=1e-12", "train.weight_decay=0")
    run = train(recipe, TrainOptions(tmp_path / "run", init_from=trained.best), ALONE, SilentReporter()).run
    before, after = read_tensors(trained.best, MODEL), read_tensors(run.last, MODEL)
    learnt = [name for name in before if "running" not in name and "num_batches" not in name]
    for name in learnt:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-7, msg=name)
    assert read_checkpoint(run.last).progress.step == 1


@pytest.mark.slow
def test_weights_of_another_model_are_refused_and_the_folder_stays_free(scenes: Path, tmp_path: Path) -> None:
    other = small_checkpoint(tmp_path / "other.safetensors", scenes, "model.thing_queries=7")
    options = TrainOptions(tmp_path / "run", init_from=other)
    with pytest.raises(CheckpointError, match=r"other\.safetensors .*does not match this model: .*expected \[10, "):
        train(small_recipe(scenes), options, ALONE, SilentReporter())
    run_small(small_recipe(scenes, "train.max_steps=1"), tmp_path / "run")


def test_missing_weights_are_said_before_the_folder_is_made(scenes: Path, tmp_path: Path) -> None:
    options = TrainOptions(tmp_path / "run", init_from=tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="none.safetensors: no such file"):
        train(small_recipe(scenes), options, ALONE, SilentReporter())
    assert not (tmp_path / "run").exists()


def test_resume_and_other_weights_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(PanformerError, match="--resume and --init-from are both given"):
        TrainOptions(tmp_path, resume=True, init_from=tmp_path / "a.safetensors")


@pytest.fixture
def own_run(trained: RunFolder, tmp_path: Path) -> RunFolder:
    """Return a copy of `trained` that no other test locks at the same time."""
    return RunFolder(Path(shutil.copytree(trained.path, tmp_path / "own")))


def test_resume_with_another_model_is_refused(own_run: RunFolder, scenes: Path) -> None:
    recipe = small_recipe(scenes, "model.dropout=0.2", "model.thing_queries=11", "train.max_steps=5")
    before = own_run.recipe.read_text()
    with pytest.raises(CheckpointError, match=r"model\.thing_queries was 10 and is 11; omit these settings to resume"):
        run_small(recipe, own_run.path, resume=True)
    assert own_run.recipe.read_text() == before


def test_resume_with_other_categories_is_refused(own_run: RunFolder, tmp_path: Path) -> None:
    other = small_scenes(tmp_path / "other", 1, 1)
    for split in ("train", "val"):
        path = other / "annotations" / f"panoptic_{split}.json"
        content = json.loads(path.read_text())
        unused = max(category["id"] for category in content["categories"]) + 1
        content["categories"].append({"id": unused, "name": "more", "isthing": 1})
        path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="was trained on categories that differ"):
        run_small(small_recipe(other, "model.dropout=0.2"), own_run.path, resume=True)


def test_splits_of_different_categories_are_refused(tmp_path: Path) -> None:
    data = small_scenes(tmp_path / "data", 4, 1)
    path = data / "annotations" / "panoptic_val.json"
    content = json.loads(path.read_text())
    content["categories"].append({"id": 999, "name": "more", "isthing": 0})
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="different categories; expected one table"):
        run_small(small_recipe(data), tmp_path / "run")


def test_a_folder_with_another_run_is_refused(own_run: RunFolder, scenes: Path) -> None:
    before = own_run.last.read_bytes()
    with pytest.raises(PanformerError, match="has another run; add --resume to continue that run, or choose a new"):
        run_small(small_recipe(scenes), own_run.path)
    assert own_run.last.read_bytes() == before


def test_no_data_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="data.root is not set"):
        run_small(load_recipe("tiny"), tmp_path / "run")


@pytest.mark.slow
def test_the_signals_are_as_before_after_a_run(scenes: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    train(small_recipe(scenes, "train.max_steps=2"), TrainOptions(tmp_path / "run"), ALONE, StopAfter(1, interrupt))
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("panformer_cli.engine.distributed.signals.SAME_SECONDS", 0)

    def twice() -> None:
        interrupt()
        interrupt()

    stopped = train(small_recipe(scenes), TrainOptions(tmp_path / "run"), ALONE, StopAfter(1, twice))
    assert (stopped.ended, stopped.saved_step) == (False, None)
    run_small(small_recipe(scenes, "train.max_steps=1"), tmp_path / "run")
    assert len(rows(RunFolder(tmp_path / "run"), "train")) == 1


class StopInEvaluation(SilentReporter):
    """Sends SIGUSR1 after the first image of an evaluation, and counts the images of all evaluations."""

    def __init__(self) -> None:
        self.images = 0

    def progress(self, what: str, total: int, done: int = 0) -> AbstractContextManager[Progress]:
        return nullcontext(self) if what == "Evaluating" else super().progress(what, total, done)

    def advance(self, steps: int = 1, status: str = "") -> None:
        self.images += steps
        signal.raise_signal(signal.SIGUSR1)


@pytest.mark.slow
def test_a_stop_during_an_evaluation_ends_it_at_the_next_image(scenes: Path, tmp_path: Path) -> None:
    """Also in the last evaluation of the run; it is due again after a resume."""
    recipe, run = small_recipe(scenes, "train.max_steps=1"), RunFolder(tmp_path / "run")
    reporter = StopInEvaluation()
    stopped = train(recipe, TrainOptions(run.path), ALONE, reporter)
    assert (stopped.ended, stopped.saved_step, reporter.images) == (False, 1, 1)
    assert rows(run, "eval") == []
    assert not run.best.exists()
    assert train(recipe, TrainOptions(run.path, resume=True), ALONE, SilentReporter()).ended
    assert len(rows(run, "eval")) == 1
    assert run.best.exists()


@pytest.mark.slow
def test_killed_workers_after_a_stop_request_do_not_keep_the_run_from_saving(scenes: Path, tmp_path: Path) -> None:
    def stop_and_kill() -> None:
        signal.raise_signal(signal.SIGUSR1)
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join()

    recipe = small_recipe(scenes, "train.max_steps=50", "train.evaluate_every=50", "data.workers=1")
    stopped = train(recipe, TrainOptions(tmp_path / "run"), ALONE, StopAfter(1, stop_and_kill))
    assert (stopped.ended, stopped.saved_step) == (False, 1)


@pytest.mark.slow
def test_a_result_tells_an_end_from_a_stop(scenes: Path, tmp_path: Path) -> None:
    ended = train(small_recipe(scenes, "train.max_steps=1"), TrainOptions(tmp_path / "run"), ALONE, SilentReporter())
    assert ended == RunResult(RunFolder(tmp_path / "run"), ended=True, saved_step=1, total_steps=1)


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_checkpoint_whole(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(run_small(small_recipe(scenes, "train.max_steps=1"), tmp_path / "run"))
    before = run.last.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PanformerError, match=r"cannot write .*No space left on device; "):
        train(small_recipe(scenes, "train.max_steps=2"), TrainOptions(run.path, resume=True), ALONE, SilentReporter())
    monkeypatch.undo()
    assert run.last.read_bytes() == before
    assert [path.name for path in run.path.iterdir() if path.suffix == ".tmp"] == []
    run_small(small_recipe(scenes, "train.max_steps=2"), run.path, resume=True)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """4 training images, of which the second is cut short."""
    data = small_scenes(tmp_path / "damaged", 4, 1)
    image = data / "images" / "train" / "000001.png"
    image.write_bytes(image.read_bytes()[:200])
    return data


def test_a_damaged_image_ends_training(damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"000001\.png .*corrupt"):
        run_small(small_recipe(damaged), tmp_path / "run")


@pytest.mark.slow
def test_damaged_images_may_be_left_out_and_are_listed(damaged: Path, tmp_path: Path) -> None:
    reporter = StopAfter()
    recipe = small_recipe(damaged, "train.max_steps=1", "data.skip_bad_images=true")
    run = train(recipe, TrainOptions(tmp_path / "run"), ALONE, reporter).run
    assert read_checkpoint(run.last).progress.step == 1
    count, problem = reporter.warnings
    assert count == "skipped 1 training image that cannot be used:"
    assert "000001.png" in problem


def test_a_batch_that_cannot_be_cut_is_refused(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="train.batch_size is 4: expected a multiple of train.images_per_forward"):
        run_small(small_recipe(scenes, "train.images_per_forward=3"), tmp_path / "run")


def test_the_checkpoint_holds_nothing_but_tensors_and_text(trained: RunFolder) -> None:
    with safe_open(trained.last, framework="pt") as file:
        assert {name.split(".")[0] + "." for name in file.keys()} == {MODEL, OPTIMIZER, RANDOM}  # noqa: SIM118
        assert set(file.metadata()) == {"format", "version", "torch", "recipe", "categories", "progress"}


@pytest.mark.slow
def test_fewer_images_than_a_step_takes(tmp_path: Path) -> None:
    data = small_scenes(tmp_path / "data", 1, 1)
    recipe = replace(small_recipe(data, "train.max_steps=2"), name="one_image")
    assert [row["epoch"] for row in rows(RunFolder(run_small(recipe, tmp_path / "run")), "train")] == [0, 1]


@pytest.mark.slow
def test_a_diverged_step_is_not_saved(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 images in steps of 4: saved after step 2; the gradient of step 3 is no number."""
    norms = iter([torch.tensor(1.0), torch.tensor(1.0), torch.tensor(float("nan"))])
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: next(norms))
    with pytest.raises(
        PanformerError, match=r"training diverged: .*not finite in 1 step in a row, up to step 3 .*step 2"
    ):
        run_small(small_recipe(scenes, "train.max_steps=4", "train.max_bad_steps=1"), tmp_path / "run")
    last = RunFolder(tmp_path / "run").last
    assert read_checkpoint(last).progress.step == 2
    assert all(bool(tensor.isfinite().all()) for name, tensor in tensors(last).items() if tensor.is_floating_point())


@pytest.mark.slow
def test_a_stop_between_a_step_and_its_evaluation_loses_neither(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("panformer_cli.engine.training.validation.evaluate_model", fail)
    recipe, run = small_recipe(scenes, "train.max_steps=2"), RunFolder(tmp_path / "run")
    stopped = train(recipe, TrainOptions(run.path), ALONE, SilentReporter())
    assert stopped == RunResult(run, ended=False, saved_step=2, total_steps=2)
    assert read_checkpoint(run.last).progress.step == 2
    assert not run.best.is_file()
    monkeypatch.undo()
    run_small(small_recipe(scenes, "train.max_steps=2"), tmp_path / "run", resume=True)
    assert run.best.is_file()
    assert len(rows(run, "eval")) == 1


@pytest.mark.slow
def test_images_without_annotation_may_be_left_out_and_are_listed(tmp_path: Path) -> None:
    data = small_scenes(tmp_path / "data", 5, 1)
    path = data / "annotations" / "panoptic_train.json"
    content = json.loads(path.read_text())
    content["annotations"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="lists 1 image without annotation, first 000004.png"):
        run_small(small_recipe(data), tmp_path / "run")
    reporter = StopAfter()
    recipe = small_recipe(data, "train.max_steps=1", "data.skip_bad_images=true")
    train(recipe, TrainOptions(tmp_path / "run"), ALONE, reporter)
    assert any("000004.png" in warning for warning in reporter.warnings)


@pytest.mark.slow
def test_resuming_needs_no_backbone_weights(scenes: Path, tmp_path: Path) -> None:
    """They were for the start; the file may be gone."""
    run = RunFolder(run_small(small_recipe(scenes, "train.max_steps=1"), tmp_path / "run"))
    gone = ["train.max_steps=2", f"model.backbone_weights={tmp_path / 'gone.pth'}"]
    run_small(small_recipe(scenes, *gone), run.path, resume=True)
    assert read_checkpoint(run.last).progress.step == 2
