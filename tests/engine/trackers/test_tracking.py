"""Trackers get every value once, and cannot hold up or end a run."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.trackers import tracking as module
from panformer_cli.engine.trackers.tracker import Status, TrackedRun
from panformer_cli.engine.trackers.tracking import Sender, Tracking, open_tracking, trackers_of
from panformer_cli.recipe_io import load_recipe
from tests.engine.small import StopAfter

PICTURE = np.zeros((4, 4, 3), np.uint8)


def row(step: int, kind: str = "train") -> dict[str, object]:
    return {"kind": kind, "step": step, "epoch": 0, "loss": 2.0, "losses": {"dice": 1.5}, "speed": {"memory_mib": None}}


class Recorder:
    """A tracker that writes down what it gets."""

    def __init__(self, run: TrackedRun, forgets: bool = False) -> None:
        self.id: str | None = run.id or "run-1"
        self.forgets = forgets
        self.run = run
        self.calls: list[tuple[object, ...]] = []

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.calls.append((step, dict(values)))

    def images(self, images: Mapping[str, ImageArray], step: int) -> None:
        self.calls.append((step, *images))

    def finish(self, status: Status) -> None:
        self.calls.append((status,))


def tracked(folder: Path, open_run: Callable[[TrackedRun], Recorder], reporter: StopAfter, step: int = 0) -> Tracking:
    return Tracking([Sender("fake", TrackedRun(folder, "tiny run", {}, step), open_run)], reporter)


def record(
    folder: Path, rows: list[dict[str, object]], status: Status, step: int = 0, forgets: bool = False
) -> Recorder:
    """Send rows to a recorder, and return it after the run."""
    opened: list[Recorder] = []

    def open_run(run: TrackedRun) -> Recorder:
        opened.append(Recorder(run, forgets))
        return opened[-1]

    tracking = tracked(folder, open_run, StopAfter(), step)
    for line in rows:
        tracking.log(line)
    tracking.finish(status)
    (recorder,) = opened
    return recorder


def test_numbers_are_sent_by_kind_and_name(tmp_path: Path) -> None:
    recorder = record(tmp_path, [row(1)], "finished")
    values = {"train/epoch": 0.0, "train/loss": 2.0, "train/losses/dice": 1.5}
    assert recorder.calls == [(1, values), ("finished",)]


@pytest.mark.parametrize(
    ("forgets", "again"), [(False, [8]), (True, [6, 7, 8])], ids=["keeps what it has", "forgets later values"]
)
def test_after_a_resume_each_step_is_there_once(tmp_path: Path, forgets: bool, again: list[int]) -> None:
    """The run was killed after step 7, its checkpoint is from step 5; it continues the same run of the tracker."""
    first = record(tmp_path, [row(step) for step in range(1, 8)], "stopped", forgets=forgets)
    second = record(tmp_path, [row(step) for step in range(6, 9)], "finished", step=5, forgets=forgets)
    assert [call[0] for call in first.calls] == [*range(1, 8), "stopped"]
    assert [call[0] for call in second.calls] == [*again, "finished"]
    assert (first.run.id, second.run.id, second.run.step) == (None, "run-1", 5)


@pytest.mark.parametrize("forgets", [False, True])
def test_after_a_rollback_each_step_is_there_once(tmp_path: Path, forgets: bool) -> None:
    """Training diverges at step 4 and returns to step 2; a tracker that can forget is opened again."""
    opened: list[Recorder] = []

    def open_run(run: TrackedRun) -> Recorder:
        opened.append(Recorder(run, forgets))
        return opened[-1]

    tracking = tracked(tmp_path, open_run, StopAfter())
    for step in range(1, 5):
        tracking.log(row(step))
    tracking.roll_back(2)
    for step in range(3, 7):
        tracking.log(row(step))
    tracking.finish("finished")
    calls = [[call[0] for call in recorder.calls] for recorder in opened]
    if forgets:
        assert calls == [[1, 2, 3, 4, "stopped"], [3, 4, 5, 6, "finished"]]
        assert (opened[1].run.step, opened[1].run.id) == (2, "run-1")
    else:
        assert calls == [[1, 2, 3, 4, 5, 6, "finished"]]


def test_an_evaluation_after_the_last_row_is_not_lost(tmp_path: Path) -> None:
    record(tmp_path, [row(4)], "stopped")
    resumed = record(tmp_path, [row(4), row(4, "eval")], "finished", step=3)
    assert resumed.calls[:-1] == [(4, {"eval/epoch": 0.0, "eval/loss": 2.0, "eval/losses/dice": 1.5})]


def test_images_are_sent(tmp_path: Path) -> None:
    opened: list[Recorder] = []

    def open_run(run: TrackedRun) -> Recorder:
        opened.append(Recorder(run))
        return opened[-1]

    tracking = tracked(tmp_path, open_run, StopAfter())
    tracking.images({"samples/0": PICTURE}, 3)
    tracking.finish("finished")
    assert opened[0].calls == [(3, "samples/0"), ("finished",)]


@pytest.mark.parametrize("where", ["open", "log", "finish"])
def test_a_tracker_that_fails_is_left_out_with_one_warning(tmp_path: Path, where: str) -> None:
    class Failing(Recorder):
        def log(self, values: Mapping[str, float], step: int) -> None:
            if where == "log":
                raise ConnectionError("no route to host\nmore")

        def finish(self, status: Status) -> None:
            if where == "finish":
                raise ConnectionError("no route to host")

    def open_run(run: TrackedRun) -> Recorder:
        if where == "open":
            raise ConnectionError("no route to host")
        return Failing(run)

    reporter = StopAfter()
    tracking = tracked(tmp_path, open_run, reporter)
    tracking.start()
    for step in range(1, 4):
        tracking.log(row(step))
    tracking.finish("finished")
    assert reporter.warnings == ["--log fake: ConnectionError: no route to host; training continues without it"]


def test_a_tracker_that_stalls_does_not_hold_up_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FINISH_SECONDS", 0.1)
    monkeypatch.setattr(module, "WAITING", 3)
    forever = threading.Event()

    class Stalling(Recorder):
        def log(self, values: Mapping[str, float], step: int) -> None:
            forever.wait(20)

    reporter = StopAfter()
    tracking = tracked(tmp_path, Stalling, reporter)
    tracking.start()
    for step in range(1, 10):
        tracking.log(row(step))
    tracking.finish("finished")
    forever.set()
    assert reporter.warnings == [
        "--log fake: it is too slow, and 3 entries already wait; training continues without it"
    ]


@pytest.mark.parametrize("content", ["", "[1]", '{"id": 3, "steps": {}}', '{"id": "a", "steps": {"train": "x"}}'])
def test_a_damaged_state_starts_a_new_run_of_the_tracker(tmp_path: Path, content: str) -> None:
    (tmp_path / "trackers").mkdir()
    (tmp_path / "trackers" / "fake.json").write_text(content)
    assert record(tmp_path, [row(1)], "finished").run.id is None
    assert json.loads((tmp_path / "trackers" / "fake.json").read_text()) == {"id": "run-1", "steps": {"train": 1}}


def test_the_trackers_of_a_run_are_remembered(tmp_path: Path) -> None:
    assert trackers_of(tmp_path) == []
    record(tmp_path, [row(1)], "stopped")
    assert trackers_of(tmp_path) == ["fake"]


def test_tensorboard_reads_what_was_sent(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe, reporter = load_recipe("tiny"), StopAfter()
    # Killed before the first checkpoint, started again; killed after step 7, resumed from step 5.
    for rows, step in ((range(1, 4), 0), (range(1, 8), 0), (range(6, 9), 5)):
        tracking = open_tracking(["tensorboard"], tmp_path, recipe, step, reporter)
        for number in rows:
            tracking.log(row(number))
        tracking.images({"samples/0": PICTURE}, 8)
        tracking.finish("stopped")
    assert reporter.warnings == []
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 9))
    assert [event.value for event in events.Scalars("train/losses/dice")] == [1.5] * 8
    assert events.Images("samples/0")[-1].width == 4
