"""Early stopping and time limits: which evaluation and which step is the last one, with and without a resume."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from panformer_cli.engine.checkpoints.checkpoint import TrainProgress, read_checkpoint
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.distributed.signals import SharedStop, StopRequest
from panformer_cli.engine.distributed.worker import LAUNCHED_AT, seconds_since_launch
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training import validation
from panformer_cli.engine.training.step import OptimizerStep, StepResult
from panformer_cli.engine.training.time_limit import TimeLimit
from panformer_cli.engine.training.train import RunResult, TrainOptions, train
from panformer_cli.metrics.quality import GroupQuality, PanopticResult
from tests.engine.small import ALONE, StopAfter, small_recipe

NAN = float("nan")


def evaluations_until_stop(scores: list[float], patience: int, resume_after: int | None = None) -> int | None:
    """Return after how many evaluations a run stops, with the progress saved and loaded after one of them."""
    progress = TrainProgress()
    for number, pq in enumerate(scores, 1):
        progress.step += 10
        progress.add_evaluation(pq)
        if number == resume_after:
            progress = TrainProgress(**json.loads(json.dumps(asdict(progress))))
        if progress.evaluations_since_best >= patience:
            return number
    return None


@pytest.mark.parametrize(
    ("scores", "patience", "expected"),
    [
        ([5, 4, 3, 2], 3, 4),
        ([5, 4, 6, 4, 5, 6, 7], 3, 6),  # 6 starts the count anew; an equal PQ is no improvement
        ([5, 4, 6, 4, 7, 6, 7], 3, None),
        ([0, 0, 0], 1, 2),
        ([1, 2, 3, 4], 1, None),
        ([NAN, 1, NAN, NAN], 2, 4),
        ([NAN, NAN, 3], 2, 2),
    ],
)
def test_a_run_stops_after_evaluations_without_improvement(
    scores: list[float], patience: int, expected: int | None
) -> None:
    assert evaluations_until_stop(scores, patience) == expected
    for place in range(1, len(scores)):
        assert evaluations_until_stop(scores, patience, resume_after=place) == expected, place


def test_the_best_of_nan_1_3_2_is_the_third() -> None:
    progress = TrainProgress()
    assert [progress.add_evaluation(pq) for pq in (NAN, 1.0, 3.0, 2.0)] == [False, True, True, False]
    assert progress.best_pq == 3.0
    assert not any(TrainProgress().add_evaluation(NAN) for _ in range(3))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Steps that do nothing; yield the list of the PQs that the evaluations will have."""
    scores: list[float] = []

    def take(self: OptimizerStep, batches: list[Any], factor: float) -> StepResult:
        return StepResult([{"loss": torch.tensor(1.0)} for _ in batches], torch.tensor(1.0))

    def evaluate(predictor: object, dataset: list[object], *_: object, stop: SharedStop, **__: object) -> Any:
        group = GroupQuality(scores.pop(0) if not stop() else NAN, 0.0, 0.0, 1)
        result = PanopticResult(group, group, group, ())
        images = 0 if stop() else len(dataset)
        return SimpleNamespace(images=images, panoptic=SimpleNamespace(result=lambda: result))

    monkeypatch.setattr(OptimizerStep, "take", take)
    monkeypatch.setattr(validation, "evaluate_model", evaluate)
    yield scores


@pytest.mark.slow
def test_a_run_ends_early_and_resumed_at_the_same_evaluation(quick: list[float], scenes: Path, tmp_path: Path) -> None:
    """The 8 scenes are one step per epoch, so the step is the number of evaluations."""
    quick += [5.0, 6.0, 6.0, 4.0, 9.0, 9.0]
    recipe = small_recipe(scenes, "train.batch_size=8", "train.epochs=6", "train.early_stopping=2", "train.log_every=3")
    run, reporter = RunFolder(tmp_path / "run"), StopAfter()
    assert train(recipe, TrainOptions(run.path), ALONE, reporter) == RunResult(run, True, 4, 6)
    assert read_checkpoint(run.best).progress.step == 2
    assert reporter.messages[-1] == "Stopped early after step 4: no higher PQ in 2 evaluations (best PQ 6.0)"
    logged = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [row["step"] for row in logged if row["kind"] == "train"] == [3, 4], "the last losses are logged"
    assert train(recipe, TrainOptions(run.path, resume=True), ALONE, reporter) == RunResult(run, True, 4, 6)
    assert len(quick) == 2, "a run that has stopped early does not continue"

    quick[:] = [5.0, 6.0, 6.0, 4.0]
    other = RunFolder(tmp_path / "other")
    for steps in (1, 2, 3):  # resumed after each evaluation
        longer = small_recipe(scenes, "train.batch_size=8", "train.early_stopping=2", f"train.max_steps={steps}")
        train(longer, TrainOptions(other.path, resume=steps > 1), ALONE, StopAfter())
    assert train(recipe, TrainOptions(other.path, resume=True), ALONE, reporter) == RunResult(other, True, 4, 6)
    assert quick == []


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_step_and_two_saves_are_reserved() -> None:
    """Steps of 10 s, a save of 5 s: of 100 s, 80 can be used."""
    clock = Clock()
    limit = TimeLimit(100, clock)
    limit.save_seconds = lambda: 5.0
    seen = []
    for _ in range(10):
        seen.append(limit())
        clock.now += 10
    assert seen.index(True) == 8


def test_saving_is_reserved_before_its_time_is_known() -> None:
    clock = Clock()
    limit = TimeLimit(100, clock)
    clock.now += 89
    assert not limit()
    clock.now += 1
    assert limit()  # 90 s, and twice 5 % of the limit


def test_a_restarted_process_has_only_the_rest_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seconds_since_launch() == 0  # without a launcher
    monkeypatch.setenv(LAUNCHED_AT, str(time.time() - 60))
    assert 60 <= seconds_since_launch() < 90
    clock = Clock()
    limit = TimeLimit(100, clock, spent=60)
    clock.now += 29
    assert not limit()
    clock.now += 1
    assert limit()


def test_the_clock_of_another_rank_does_not_count() -> None:
    """Rank 0 has the limit; what it finds reaches the other rank, also within an evaluation."""
    clock = Clock()
    limited, other = StopRequest(TimeLimit(100, clock)), StopRequest()
    distributed: Any = torch.distributed
    store = distributed.HashStore()
    stops = [
        SharedStop(request, Process(rank, 2, torch.device("cpu"), store), "evaluation")
        for rank, request in enumerate((limited, other))
    ]
    assert [stop() for stop in stops] == [False, False] and not limited
    clock.now += 95
    assert limited and not other
    assert [stop() for stop in stops] == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.001, 3600.0])
def test_a_run_stops_at_its_limit_and_resumes(seconds: float, quick: list[float], scenes: Path, tmp_path: Path) -> None:
    quick += [1.0, 2.0]
    run = RunFolder(tmp_path / "run")
    recipe = small_recipe(scenes, "train.batch_size=8", "train.epochs=2")
    result = train(recipe, TrainOptions(run.path, time_limit=seconds), ALONE, StopAfter())
    if seconds == 3600:
        assert result == RunResult(run, True, 2, 2)
        return
    assert result == RunResult(run, False, 0, 2)
    assert train(recipe, TrainOptions(run.path, resume=True), ALONE, StopAfter()) == RunResult(run, True, 2, 2)
