"""What a run does when losses or gradients are not finite: it counts, warns, stops or rolls back."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from panformer_cli.data.structures import Batch
from panformer_cli.engine.checkpoints.checkpoint import TrainProgress, read_checkpoint
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.divergence import DivergenceWatch
from panformer_cli.engine.training.step import OptimizerStep, StepLosses, _SkipStep
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.errors import NonFiniteError, PanformerError, RecipeError
from panformer_cli.models.base import LossCounts
from panformer_cli.reporting import SilentReporter
from panformer_cli.settings import TrainSettings
from tests.engine.small import ALONE, StopAfter, small_recipe
from tests.engine.training.toy import use_toy_runs


def watched(losses: list[float], progress: TrainProgress | None = None) -> tuple[list[str], TrainProgress]:
    """Return the warnings for these losses of consecutive steps, and the progress after them."""
    reporter, progress = StopAfter(), progress or TrainProgress()
    watch = DivergenceWatch(TrainSettings(lr=0.02), reporter)
    for loss in losses:
        progress.step += 1
        watch.step_taken(progress, loss)
    return reporter.warnings, progress


CURVE = [8 / (1 + step / 20) + 1 for step in range(100)]
"""Falls from 9 to 2.3."""


@pytest.mark.parametrize("losses", [[50.0] * 200, CURVE, [2.0, 4.0] * 100, [0.5] * 30 + [2.0] + [0.5] * 30])
def test_no_warning_for_high_falling_or_noisy_losses(losses: list[float]) -> None:
    assert watched(losses)[0] == []


def test_a_loss_that_explodes_is_reported_once_with_a_rate() -> None:
    warnings, progress = watched([*CURVE, *[40.0] * 20])
    assert len(warnings) == 1
    assert "the loss rose from about" in warnings[0]
    assert "--set train.lr=0.01)" in warnings[0]
    assert progress.loss_is_high


def test_a_second_explosion_is_reported_after_the_loss_came_down() -> None:
    assert len(watched([*CURVE, *[40.0] * 10, *[2.5] * 80, *[40.0] * 10])[0]) == 2


@pytest.mark.parametrize("stop", [1, 30, 101, 103, 108])
def test_a_resumed_run_has_the_same_warnings(stop: int) -> None:
    losses = [*CURVE, *[40.0] * 20]
    whole, progress = watched(losses)
    before, stopped = watched(losses[:stop])
    after, resumed = watched(losses[stop:], TrainProgress(**json.loads(json.dumps(asdict(stopped)))))
    assert before + after == whole
    assert resumed == progress


def test_bad_steps_in_a_row_count_and_a_good_one_ends_the_row() -> None:
    watch, progress = DivergenceWatch(TrainSettings(max_bad_steps=2), SilentReporter()), TrainProgress()
    for bad in (True, False, True):
        progress.step += 1
        watch.step_skipped(progress, "loss", ["a.png"]) if bad else watch.step_taken(progress, 1.0)
        watch.check(progress)
    assert (progress.skipped_steps, progress.bad_steps) == (2, 1)
    progress.step += 1
    watch.step_skipped(progress, "gradient", ["b.png"])
    with pytest.raises(NonFiniteError, match=r"in 2 steps in a row, up to step 4 \(images: b\.png\)"):
        watch.check(progress)


def test_only_the_first_skipped_steps_are_reported() -> None:
    reporter, progress = StopAfter(), TrainProgress()
    watch = DivergenceWatch(TrainSettings(), reporter)
    for _ in range(10):
        progress.step += 1
        watch.step_skipped(progress, "loss", ["a.png"])
    assert len(reporter.warnings) == 3
    assert reporter.warnings[0] == "step 1 was skipped because its loss is not finite; images: a.png"
    assert reporter.warnings[2].endswith("further skipped steps are only listed in metrics.jsonl")


@pytest.mark.parametrize(
    ("progress", "saved", "expected"),
    [
        (TrainProgress(step=5, skipped_steps=5), None, "no step succeeded, so check the initial weights"),
        (TrainProgress(step=9, skipped_steps=5), None, r"no checkpoint was saved; start again with .*train\.lr=0\.01"),
        (TrainProgress(step=9, skipped_steps=5), 3, r"the checkpoint of step 3 is from before that; resume .*--resume"),
        (TrainProgress(step=9, skipped_steps=5, rollbacks=3), 3, "returned to earlier checkpoints 3 times; the check"),
    ],
)
def test_the_advice_fits_the_situation(progress: TrainProgress, saved: int | None, expected: str) -> None:
    advice = DivergenceWatch(TrainSettings(lr=0.02), SilentReporter()).advice(progress, saved)
    assert re.search(expected, advice), advice


def test_the_settings_are_checked() -> None:
    with pytest.raises(RecipeError, match="max_bad_steps is 0: expected 1 or more"):
        TrainSettings(max_bad_steps=0)


Bad = Callable[[int, OptimizerStep], str]


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Bad], list[float]]:
    """Replace the forward and backward pass: a gradient of 1 everywhere, unless `bad(call, step)` gives a reason."""
    use_toy_runs(monkeypatch)

    def install(bad: Bad) -> list[float]:
        rates: list[float] = []

        def accumulate(self: OptimizerStep, batches: list[Batch], counts: LossCounts) -> StepLosses:
            del counts
            rates.append(self.optimizer.param_groups[0]["lr"])
            reason = bad(len(rates), self)
            if reason:
                raise _SkipStep(reason, [batches[0].image_ids[0]])
            for parameter in self.model.parameters():
                parameter.grad = torch.ones_like(parameter)
            return StepLosses([{"a/0": torch.tensor(2.0)}], 2.0)

        monkeypatch.setattr(OptimizerStep, "accumulate", accumulate)
        return rates

    return install


class Statuses(StopAfter):
    """A reporter that also keeps what the bar shows."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: list[str] = []

    def advance(self, steps: int = 1, status: str = "") -> None:
        self.statuses.append(status)


def rows(run: RunFolder, kind: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_skipped_steps_are_counted_and_logged_with_their_images(
    scenes: Path, tmp_path: Path, faked: Callable[[Bad], list[float]]
) -> None:
    faked(lambda call, _: "loss" if call in (2, 3) else "")
    reporter = Statuses()
    recipe = small_recipe(scenes, "train.max_steps=4", "train.max_bad_steps=3", "train.evaluate_every=9")
    result = train(recipe, TrainOptions(tmp_path / "run"), ALONE, reporter)
    skipped = rows(result.run, "skipped")
    assert [row["step"] for row in skipped] == [2, 3]
    assert [row["step"] for row in rows(result.run, "train")] == [1, 4]
    listed = {path.name for path in (scenes / "images" / "train").iterdir()}
    assert all(set(row["images"]) <= listed and row["reason"] == "loss" for row in skipped)  # type: ignore[call-overload]
    progress = read_checkpoint(result.run.last).progress
    assert (progress.step, progress.skipped_steps, progress.bad_steps) == (4, 2, 0)
    assert any(text.startswith("2 of 4 steps changed nothing") for text in reporter.warnings)
    assert [text.partition(",")[0] for text in reporter.statuses] == ["loss 2.00", *2 * ["step skipped"], "loss 2.00"]


def test_an_epoch_to_keep_whose_last_step_was_skipped_is_kept_after_the_next_step(
    scenes: Path, tmp_path: Path, faked: Callable[[Bad], list[float]]
) -> None:
    """Two steps per epoch; step 4 is skipped, and step 7 is the first one after a resume."""
    faked(lambda call, _: "loss" if call == 4 else "")
    run = RunFolder(tmp_path / "run")
    recipe = small_recipe(scenes, "train.epochs=5", "train.evaluate_every=9", "train.keep_every=1")
    train(recipe, TrainOptions(run.path), ALONE, StopAfter(6, lambda: signal.raise_signal(signal.SIGTERM)))
    assert read_checkpoint(run.last).progress.step == 6
    train(recipe, TrainOptions(run.path, resume=True), ALONE, SilentReporter())
    assert [run.step_of(path) for path in run.step_checkpoints] == [2, 5, 6, 8]
    assert [read_checkpoint(path).progress.step for path in run.step_checkpoints] == [2, 5, 6, 8]


@pytest.mark.slow
def test_rollback_returns_to_the_checkpoint_with_a_lower_rate_and_is_bounded(
    scenes: Path, tmp_path: Path, faked: Callable[[Bad], list[float]]
) -> None:
    """Step 2 is saved (evaluated); from then on every step is bad, until the rate is a quarter."""
    base = 0.01
    rates = faked(
        lambda call, step: "gradient" if call > 2 and step.optimizer.param_groups[0]["lr"] > 0.3 * base else ""
    )
    extra = ("train.on_divergence=rollback", "train.max_bad_steps=2", f"train.lr={base}", "train.slow_lr_factor=1")
    recipe = small_recipe(scenes, "train.max_steps=4", *extra)
    run = train(recipe, TrainOptions(tmp_path / "run"), ALONE, SilentReporter()).run
    assert rates == pytest.approx([base, base, base, base, base / 2, base / 2, base / 4, base / 4])
    progress = read_checkpoint(run.last).progress
    assert (progress.step, progress.rollbacks, progress.lr_factor) == (4, 2, 0.25)
    assert [(row["step"], row["diverged_at"], row["lr_factor"]) for row in rows(run, "rollback")] == [
        (2, 4, 0.5),
        (2, 4, 0.25),
    ]
    assert [(row["step"], row["lr"]) for row in rows(run, "train")] == [
        (1, base),
        (2, base),
        (3, pytest.approx(base / 4)),
        (4, pytest.approx(base / 4)),
    ]
    rates = faked(lambda call, _: "gradient")
    longer = replace(recipe, train=replace(recipe.train, epochs=4, max_steps=8))
    with pytest.raises(PanformerError, match=r"training diverged: .*returned to earlier checkpoints 3 times; .*step 4"):
        train(longer, TrainOptions(run.path, resume=True), ALONE, SilentReporter())
    assert rates == pytest.approx([base / 4] * 2 + [base / 8] * 2)  # a resume keeps the rate and the count
    assert read_checkpoint(run.last).progress.step == 4


def test_weights_that_are_not_finite_never_replace_the_last_checkpoint(
    scenes: Path, tmp_path: Path, faked: Callable[[Bad], list[float]]
) -> None:
    """Step 3 overflows a weight, although its gradient is finite; the evaluation after step 4 saves."""

    def poison(call: int, step: OptimizerStep) -> str:
        if call == 3:
            next(step.model.parameters()).data.view(-1)[0] = float("inf")
        return ""

    faked(poison)
    run = RunFolder(tmp_path / "run")
    recipe = small_recipe(scenes, "train.epochs=3")
    with pytest.raises(PanformerError, match=r"training diverged: layer\.weight is not finite after step 4; the check"):
        train(recipe, TrainOptions(run.path), ALONE, SilentReporter())
    assert read_checkpoint(run.last).progress.step == 2
    assert read_checkpoint(run.best).progress.step == 2
