"""What a run shows to the outside while it trains: its log, its trackers and its record of the environment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.trackers import tracking
from panformer_cli.engine.trackers.tracker import Status, TrackedRun
from panformer_cli.engine.training.train import TrainOptions, train
from tests.engine.small import ALONE, StopAfter, small_recipe
from tests.engine.training.test_train import interrupt


class Recorder:
    """A tracker that prints what it gets into `calls`."""

    forgets = False
    calls: list[tuple[object, ...]] = []  # noqa: RUF012 (one list for all recorders of a test)

    def __init__(self, run: TrackedRun) -> None:
        self.id: str | None = run.id or "first"
        self.calls.append(("open", run.id, run.settings["train.max_steps"]))

    def log(self, values: Mapping[str, float], step: int) -> None:
        known = {"train/losses/thing_mask", "train/gradient_norm", "train/speed/waiting_for_data", "eval/pq"}
        self.calls.append((step, *sorted(known & values.keys())))

    def images(self, images: Mapping[str, ImageArray], step: int) -> None:
        shapes = {image.shape[2] for image in images.values()}
        self.calls.append((step, sorted(images), shapes))

    def finish(self, status: Status) -> None:
        self.calls.append((status,))


TRAINED = ("train/gradient_norm", "train/losses/thing_mask", "train/speed/waiting_for_data")
PICTURES = ([f"samples/{index}" for index in range(4)], {3})


@pytest.mark.slow
def test_a_tracker_follows_a_run_through_a_stop_and_its_end(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scenes have two steps in an epoch; the resumed run needs no `--log`."""
    monkeypatch.setattr(tracking, "opener_of", lambda name: Recorder)
    monkeypatch.setattr(Recorder, "calls", [])
    recipe, run = small_recipe(scenes, "train.max_steps=4"), tmp_path / "run"
    train(recipe, TrainOptions(run, trackers=("wandb",)), ALONE, StopAfter(3, interrupt))
    train(recipe, TrainOptions(run, resume=True), ALONE, StopAfter())
    assert Recorder.calls == [
        ("open", None, 4),
        (1, *TRAINED),
        (2, *TRAINED),
        (2, "eval/pq"),
        (2, *PICTURES),
        (3, *TRAINED),
        ("stopped",),
        ("open", "first", 4),
        (4, *TRAINED),
        (4, "eval/pq"),
        (4, *PICTURES),
        ("finished",),
    ]
    first, environment = json.loads((run / "environment.json").read_text())
    assert (first["step"], environment["step"]) == (0, 3)
    annotation = scenes / "annotations" / "panoptic_train.json"
    assert environment["files"]["train"]["sha256"] == hashlib.sha256(annotation.read_bytes()).hexdigest()
    assert environment["processes"] == 1
