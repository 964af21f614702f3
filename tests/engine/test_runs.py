"""Finding runs and checkpoints, and which folders may be written to."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from panformer_cli.engine.checkpoints.published import PUBLISHED
from panformer_cli.engine.runs import (
    RunFolder,
    check_results_folder,
    find_checkpoint,
    results_folder,
    run_to_resume,
)
from panformer_cli.errors import CheckpointError, PanformerError, WriteError
from panformer_cli.recipe import Recipe
from panformer_cli.reporting import SilentReporter
from tests.engine.small import StopAfter
from tests.helpers import files_of_at_most
from tests.release_files import small_file

RECIPE = Recipe(name="mine")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a temporary folder, since `runs/` is in the current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache that has all published weights."""
    monkeypatch.setenv("PANFORMER_HOME", str(tmp_path / "home"))
    for weights in PUBLISHED.values():
        file(tmp_path / "home" / "weights" / weights.file).write_bytes(small_file())
    return tmp_path / "home" / "weights"


def find(given: str | Path | None) -> Path:
    return find_checkpoint(None if given is None else Path(given), SilentReporter())


def file(path: Path, age: int = 0) -> Path:
    """Write an empty file that is `age` seconds old, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return path


def test_a_restarted_run_deletes_the_metrics_of_the_first_try() -> None:
    run = RunFolder(Path("out"))
    run.start(RECIPE, {"step": 0})
    run.log({"kind": "train", "step": 1})
    run.start(RECIPE, {"step": 0})
    assert run.metrics.read_text() == ""


def test_a_resumed_run_deletes_only_the_metrics_that_it_will_repeat() -> None:
    run = RunFolder(Path("out"))
    file(run.last)
    for step in (1, 2, 3):
        run.log({"kind": "train", "step": step})
    run.start(RECIPE, {"step": 0})
    with run.metrics.open("a") as metrics:
        metrics.write('{"kind": "train", "st')  # truncated when the run was killed
    run.forget_after(2, 0)
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [1, 2]


def test_an_evaluation_that_will_be_repeated_is_deleted() -> None:
    """The run was killed after the evaluation of step 4, before it was saved."""
    run = RunFolder(Path("out"))
    file(run.last)
    for kind, step in (("eval", 2), ("train", 4), ("eval", 4)):
        run.log({"kind": kind, "step": step})
    run.forget_after(4, 2)
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert rows == [{"kind": "eval", "step": 2}, {"kind": "train", "step": 4}]


def test_a_full_disk_leaves_no_part_of_a_line() -> None:
    run, row = RunFolder(Path("out")), {"kind": "train", "step": 1, "loss": 1.5}
    run.path.mkdir()
    run.log(row)
    with (
        files_of_at_most(run.metrics.stat().st_size + 10),
        pytest.raises(WriteError, match=r"^cannot write out/metrics\.jsonl: File too large; free some space"),
    ):
        run.log(row)
    run.log(row)
    assert [json.loads(line) for line in run.metrics.read_text().splitlines()] == [row, row]


def test_a_log_that_cannot_be_written_is_one_message() -> None:
    run = RunFolder(Path("out"))
    run.metrics.mkdir(parents=True)
    with pytest.raises(PanformerError, match=r"cannot write out/metrics\.jsonl: Is a directory"):
        run.log({"step": 1})


def test_the_newest_run_of_the_recipe_is_resumed() -> None:
    file(Path("runs/mine/a/last.safetensors"), age=20)
    file(Path("runs/mine/b/last.safetensors"), age=30)
    file(Path("runs/mine/c/best.safetensors"))
    file(Path("runs/other/d/last.safetensors"))
    assert run_to_resume(RECIPE.name, None).path == Path("runs/mine/a")
    assert run_to_resume(RECIPE.name, Path("runs/mine/b")).path == Path("runs/mine/b")


@pytest.mark.parametrize(
    ("out", "said"),
    [
        (None, "--resume: there is no run of mine in runs/mine; omit --resume, or give the folder of the run: "),
        (Path("nowhere"), "--resume: nowhere has no last.safetensors; give the folder of a run, or omit --resume"),
    ],
)
def test_nothing_to_resume(out: Path | None, said: str) -> None:
    with pytest.raises(PanformerError, match=f"^{said}"):
        run_to_resume(RECIPE.name, out)


def test_the_checkpoint_of_the_newest_run_is_its_best() -> None:
    file(Path("runs/mine/a/last.safetensors"))
    best = file(Path("runs/mine/a/best.safetensors"), age=60)
    last = file(Path("runs/other/b/last.safetensors"), age=10)
    assert find(None) == best
    assert find("runs/mine/a") == best
    assert find("runs/other/b") == last
    assert find(last) == last


@pytest.mark.parametrize("place", ["runs", "runs/a", "runs/mine/a/b/c"])
def test_the_newest_run_is_found_at_any_depth(place: str) -> None:
    file(Path("runs/mine/a/best.safetensors"), age=10)
    file(Path("runs/mine/a/last.safetensors"), age=10)
    newest = file(Path(place, "new.d", "last.safetensors"), age=5)
    assert find(None) == newest


def test_the_time_of_a_run_is_that_of_its_last_checkpoint() -> None:
    """An old `best` of a run that is still training, and a tuned copy, do not change the order."""
    file(Path("runs/mine/a/best.safetensors"), age=1)
    file(Path("runs/mine/a/last.safetensors"), age=50)
    file(Path("runs/mine/a/best-tuned.safetensors"))
    best = file(Path("runs/mine/b/best.safetensors"), age=90)
    file(Path("runs/mine/b/last.safetensors"), age=20)
    assert find(None) == best


def test_linked_runs_are_found_and_circles_end() -> None:
    newest = file(Path("disk/last.safetensors"))
    file(Path("runs/mine/a/last.safetensors"), age=10)
    Path("runs/linked").symlink_to(newest.parent.resolve())
    Path("runs/mine/circle").symlink_to(Path("runs").resolve())
    assert find(None).resolve() == newest.resolve()


def test_an_imported_checkpoint_is_found_by_its_folder() -> None:
    imported = file(Path("weights/model.safetensors"))
    assert find("weights") == imported
    last = file(Path("weights/last.safetensors"))
    assert find("weights") == last


def test_no_run_means_no_checkpoint() -> None:
    expected = (
        f"no checkpoint was given and there is no run in {Path('runs').resolve()}; give one, or the name of published "
        f"weights ({', '.join(PUBLISHED)}), or train first: panformer train RECIPE"
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(expected)}$"):
        find(None)


@pytest.mark.parametrize("name", ["r50_1x", "r50", "r101", "pvtv2b5", "swinl"])
def test_published_weights_are_found_by_name(name: str, cached: Path) -> None:
    assert find(name) == cached / PUBLISHED[name].file


def test_without_a_run_the_default_is_used_and_reported(cached: Path) -> None:
    lines: list[str] = []
    weights = cached / "panoptic_segformer_r50_2x.pth"
    assert find_checkpoint(None, StopAfter(), "r50", lines.append) == weights
    last = file(Path("runs/mine/a/last.safetensors"))
    assert find_checkpoint(None, StopAfter(), "r50", lines.append) == last
    assert find_checkpoint(Path("runs/mine/a"), StopAfter(), "r50", lines.append) == last
    assert lines == [
        f"Checkpoint: {weights} (the published weights r50, since there is no run in {Path('runs').resolve()})",
        f"Checkpoint: {last} (newest run)",
        f"Checkpoint: {last}",
    ]


def test_an_existing_path_has_priority_over_a_published_name(cached: Path) -> None:
    own = file(Path("r50"))
    assert find("r50") == own
    run = file(Path("swinl/best.safetensors"))
    assert find("swinl") == run


def test_a_published_name_has_priority_over_a_folder_without_a_checkpoint(cached: Path) -> None:
    file(Path("r50/2030-01-31/last.safetensors"))  # as in runs/
    assert find("r50") == cached / PUBLISHED["r50"].file
    Path("mine").mkdir()
    assert find("mine") == Path("mine")  # reading it reports the error


@pytest.mark.parametrize(
    ("given", "guess"),
    [
        ("r5O", "did you mean r50? "),
        ("swin-l", "did you mean swinl? "),
        ("R50", "did you mean r50? "),
        ("pvt2b5", "did you mean pvtv2b5? "),
        ("model.safetensors", ""),
        ("runs/mine/x/best.safetensors", ""),
        ("nowhere/best.safetensors", ""),
        (
            "facebook/maskformer-swin-tiny-ade",
            "for a model of the Hugging Face Hub, give hf:facebook/maskformer-swin-tiny-ade (transformers) or "
            "hub:facebook/maskformer-swin-tiny-ade (panformer); otherwise ",
        ),
    ],
)
def test_an_unknown_checkpoint_is_reported_with_a_suggestion(given: str, guess: str, cached: Path) -> None:
    expected = (
        f"checkpoint {given}: no such file; {guess}give a checkpoint, the folder of a run or published weights "
        f"({', '.join(PUBLISHED)})"
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(expected)}$"):
        find(given)


def test_results_are_beside_the_checkpoint_but_not_in_the_cache(cached: Path) -> None:
    assert results_folder(Path("runs/mine/a/best.safetensors")) == Path("runs/mine/a/evaluation")
    assert results_folder(find("r101")) == Path("evaluation/r101")


def test_results_are_not_written_into_a_run() -> None:
    file(Path("runs/mine/a/recipe.yaml"))
    with pytest.raises(PanformerError, match=r"has a training run; choose another folder, such as runs/mine/a/res"):
        check_results_folder(Path("runs/mine/a"))
    with pytest.raises(PanformerError, match="is a file; expected a folder"):
        check_results_folder(Path("runs/mine/a/recipe.yaml"))
    check_results_folder(Path("runs/mine/a/results"))
