"""Resuming an interrupted evaluation: no image is predicted twice, and the files are identical."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from panformer_cli.data.result_folders import LINES
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.evaluation.evaluate import EvaluateRequest, evaluate
from panformer_cli.engine.results import PanopticResults
from panformer_cli.engine.runs import RunFolder
from panformer_cli.errors import PanformerError
from panformer_cli.metrics.evaluator import MetricName
from panformer_cli.reporting import SilentReporter
from tests.conftest import REPOSITORY
from tests.engine.ranks import in_processes
from tests.engine.small import ALONE, StopAfter
from tests.engine.test_predict import batches_seen

METRICS: tuple[MetricName, ...] = ("panoptic", "boundary", "semantic", "bbox", "segm")
IMAGES = 4
QUIET = SilentReporter()


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files in `folder`, including hidden ones."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def results_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all evaluations, since metrics.json contains its path; emptied before each test."""
    return tmp_path_factory.mktemp("evaluations") / "out"


@pytest.fixture(scope="module")
def whole(trained: RunFolder, results_folder: Path) -> dict[str, bytes]:
    """Return the files of an uninterrupted evaluation."""
    metrics = evaluate(request_of(trained, results_folder), ALONE, QUIET)
    assert sum(row["tp"] + row["fp"] for row in metrics["panoptic"]["per_class"].values()) > 0, "nothing was predicted"
    return contents(results_folder)


@pytest.fixture
def out(results_folder: Path, whole: dict[str, bytes]) -> Path:
    assert {"metrics.json", "analysis.json", "records.jsonl", "panoptic.json"} < whole.keys()
    assert len(whole) == 4 + IMAGES
    shutil.rmtree(results_folder, ignore_errors=True)
    return results_folder


def request_of(trained: RunFolder, out: Path, **others: Any) -> EvaluateRequest:
    return EvaluateRequest(trained.best, out, metrics=METRICS, resamples=20, **others)


def stop_after(images: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Raise KeyboardInterrupt after `images` are written; return a list that collects their indices."""
    added: list[int] = []
    add = PanopticResults.add

    def counted(self: PanopticResults, index: int, *others: Any) -> None:
        if len(added) == images:
            raise KeyboardInterrupt
        add(self, index, *others)
        added.append(index)

    monkeypatch.setattr(PanopticResults, "add", counted)
    return added


def interrupt(trained: RunFolder, out: Path, images: int, **others: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(images, patch)
        with pytest.raises(KeyboardInterrupt):
            evaluate(request_of(trained, out, **others), ALONE, QUIET)


@pytest.mark.slow
@pytest.mark.parametrize("images", range(IMAGES))
def test_finished_images_are_not_predicted_again(
    images: int, trained: RunFolder, out: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(trained, out, images)
    assert not (out / "metrics.json").exists()
    seen = batches_seen(monkeypatch)
    evaluate(request_of(trained, out, resume=True), ALONE, QUIET)
    assert seen == (IMAGES - images) * [1]
    assert contents(out) == whole


@pytest.mark.slow
def test_stopped_twice(trained: RunFolder, out: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(trained, out, 1)
    interrupt(trained, out, 2, resume=True)
    seen = batches_seen(monkeypatch)
    evaluate(request_of(trained, out, resume=True), ALONE, QUIET)
    assert seen == [1]
    assert contents(out) == whole


@pytest.mark.slow
def test_without_resume_all_images_are_predicted_again(
    trained: RunFolder, out: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(trained, out, 3)
    seen = batches_seen(monkeypatch)
    evaluate(request_of(trained, out), ALONE, QUIET)
    assert seen == IMAGES * [1]
    assert contents(out) == whole


@pytest.mark.slow
def test_stopped_while_the_metrics_are_written(
    trained: RunFolder, out: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the evaluation stops after the last image, no image is predicted again."""
    for name in (
        "panformer_cli.engine.evaluation.evaluate.write_metrics",
        "panformer_cli.engine.results.write_overlaps",
    ):
        with pytest.MonkeyPatch.context() as patch:

            def stop(*_: Any) -> None:
                raise KeyboardInterrupt

            patch.setattr(name, stop)
            with pytest.raises(KeyboardInterrupt):
                evaluate(request_of(trained, out, resume=True), ALONE, QUIET)
    seen = batches_seen(monkeypatch)
    evaluate(request_of(trained, out, resume=True), ALONE, QUIET)
    assert seen == []
    assert contents(out) == whole


def truncated_last_line(out: Path) -> None:
    path = out / LINES / "0.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])


def last_line_of_zeros(out: Path) -> None:
    with (out / LINES / "0.jsonl").open("ab") as file:
        file.write(bytes(100))


def without_newline(out: Path) -> None:
    path = out / LINES / "0.jsonl"
    path.write_bytes(path.read_bytes()[:-1])


def without_a_png(out: Path) -> None:
    min((out / "panoptic").iterdir()).unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "predicted"),
    [(truncated_last_line, 2), (last_line_of_zeros, 1), (without_newline, 1), (without_a_png, 2)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_files_of_a_crash_are_repaired(
    damage: Callable[[Path], None],
    predicted: int,
    trained: RunFolder,
    out: Path,
    whole: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupt(trained, out, 3)
    damage(out)
    seen = batches_seen(monkeypatch)
    evaluate(request_of(trained, out, resume=True), ALONE, QUIET)
    assert seen == predicted * [1]
    assert contents(out) == whole


@pytest.mark.slow
def test_other_settings_are_rejected(trained: RunFolder, out: Path, tmp_path: Path) -> None:
    interrupt(trained, out, 2)
    request = request_of(trained, out, resume=True)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(trained.best.read_bytes())
    before = contents(out)
    for named, changed in (
        ("checkpoint", replace(request, checkpoint=copy)),
        ("annotation", replace(request, split="train")),
        ("metrics", replace(request, metrics=("panoptic",))),
        ("precision", replace(request, precision="bf16")),
        ("annotation, metrics", replace(request, split="train", metrics=("panoptic",))),
    ):
        with pytest.raises(PanformerError) as caught:
            evaluate(changed, ALONE, QUIET)
        assert (
            f"{out} was started with a different {named} (see {out / LINES / 'settings.json'}); use the same to resume"
            in str(caught.value)
        )
        assert "\n" not in str(caught.value)
        assert contents(out) == before


@pytest.mark.slow
def test_a_complete_evaluation_is_reported_and_kept(
    trained: RunFolder, out: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = evaluate(request_of(trained, out), ALONE, QUIET)
    seen, reporter = batches_seen(monkeypatch), StopAfter()
    assert evaluate(request_of(trained, out, resume=True), ALONE, reporter) == metrics
    assert seen == []
    assert reporter.messages == [f"The evaluation in {out} is already complete; showing its results"]
    assert contents(out) == whole


@pytest.mark.slow
def test_a_complete_evaluation_with_other_settings_is_rejected(trained: RunFolder, out: Path) -> None:
    evaluate(request_of(trained, out), ALONE, QUIET)
    request, before = request_of(trained, out, resume=True), contents(out)
    for named, changed in (
        ("annotation", replace(request, split="train")),
        ("bootstrap", replace(request, resamples=21)),
        ("metrics, precision", replace(request, metrics=("panoptic",), precision="bf16")),
    ):
        with pytest.raises(
            PanformerError, match=rf"out has an evaluation with different settings \({named}\); --resume needs"
        ):
            evaluate(changed, ALONE, QUIET)
        assert contents(out) == before


@pytest.mark.slow
def test_metrics_of_predictions_on_disk_are_computed_again(
    trained: RunFolder, out: Path, whole: dict[str, bytes]
) -> None:
    out.mkdir()
    (out / "metrics.json").write_text('{"images": 1, "panoptic": {}}')
    evaluate(request_of(trained, out, resume=True), ALONE, QUIET)
    assert contents(out) == whole


@pytest.mark.slow
@pytest.mark.parametrize("content", ["{}", "[]", "{"])
@pytest.mark.parametrize("name", ["metrics.json", "analysis.json", "records.jsonl"])
def test_files_of_another_program_are_refused(name: str, content: str, trained: RunFolder, out: Path) -> None:
    out.mkdir()
    (out / name).write_text(content)
    for resume in (False, True):
        with pytest.raises(PanformerError, match=rf"{name} is not a result of panformer and would be replaced"):
            evaluate(request_of(trained, out, resume=resume), ALONE, QUIET)
    assert contents(out) == {name: content.encode()}


@pytest.mark.slow
def test_old_metrics_are_deleted_before_the_first_new_prediction(trained: RunFolder, out: Path) -> None:
    evaluate(request_of(trained, out), ALONE, QUIET)
    (out / "notes.txt").write_text("mine")
    interrupt(trained, out, 1, split="train")
    assert {path.name for path in out.iterdir()} == {"panoptic", ".parts", "notes.txt"}


@pytest.mark.slow
def test_an_invalid_request_keeps_old_metrics(trained: RunFolder, out: Path, whole: dict[str, bytes]) -> None:
    evaluate(request_of(trained, out), ALONE, QUIET)
    with pytest.raises(PanformerError):
        evaluate(request_of(trained, out, split="none"), ALONE, QUIET)
    assert contents(out) == whole


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "x", "[1]", "\xff"])
def test_corrupt_settings_are_reported(content: str, trained: RunFolder, out: Path) -> None:
    interrupt(trained, out, 2)
    (out / ".parts" / "settings.json").write_text(content, encoding="latin-1")
    with pytest.raises(PanformerError, match=r"settings\.json is corrupt .*; leave out --resume to start over"):
        evaluate(request_of(trained, out, resume=True), ALONE, QUIET)


@pytest.mark.slow
def test_resuming_without_earlier_results_starts_an_evaluation(
    trained: RunFolder, out: Path, whole: dict[str, bytes]
) -> None:
    evaluate(request_of(trained, out, resume=True), ALONE, QUIET)
    assert contents(out) == whole


KILLED = """
import os, signal, sys
from pathlib import Path
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.evaluation.evaluate import EvaluateRequest, evaluate
from panformer_cli.reporting import SilentReporter
from panformer_cli.storage.result_log import ResultLog

append = ResultLog.append
count = 0

def killed(self, index, content):
    global count
    if count == 2:  # the PNG of the third image and half of its line are written
        self.folder.joinpath("0.jsonl").open("ab").write(b'{"index": 2, "ima')
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, index, content)
    count += 1

ResultLog.append = killed
checkpoint, out = map(Path, sys.argv[1:3])
request = EvaluateRequest(checkpoint, out, metrics=tuple(sys.argv[3:]), resamples=20)
evaluate(request, Process.single(), SilentReporter())
"""


@pytest.mark.slow
def test_a_killed_evaluation_can_be_resumed(
    trained: RunFolder, out: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", KILLED, str(trained.best), str(out), *METRICS]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # identical results need the same number
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env={**os.environ, **threads})
    assert done.returncode == -signal.SIGKILL, done.stderr
    seen = batches_seen(monkeypatch)
    evaluate(request_of(trained, out, resume=True), ALONE, QUIET)
    assert seen == 2 * [1]
    assert contents(out) == whole


def evaluate_quietly(process: Process, request: EvaluateRequest) -> None:
    evaluate(request, process, QUIET)


@pytest.mark.slow
def test_one_process_starts_and_two_processes_finish(
    trained: RunFolder, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All processes have one thread, which makes the results identical."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        evaluate(request_of(trained, out), ALONE, QUIET)
        alone = contents(out)
        shutil.rmtree(out)
        interrupt(trained, out, 1)
        written = {path.name: path.stat().st_mtime_ns for path in (out / "panoptic").iterdir()}
        in_processes(2, evaluate_quietly, request_of(trained, out, resume=True))
    finally:
        torch.set_num_threads(threads)
    assert len(written) == 1
    assert all((out / "panoptic" / name).stat().st_mtime_ns == time for name, time in written.items())
    assert contents(out) == alone
