"""When training diverges: counting skipped steps, watching the loss, and what to do next.

A skipped step counts as a step of the schedule and of the order of images. It changes neither the weights nor anything
that depends on them: moments of AdamW, averaged weights, running statistics of BatchNorm.
"""

from __future__ import annotations

from panformer_cli.engine.checkpoints.checkpoint import TrainProgress
from panformer_cli.errors import NonFiniteError
from panformer_cli.reporting import Reporter
from panformer_cli.settings import TrainSettings
from panformer_cli.wording import counted, listing

MAX_ROLLBACKS = 3
ROLLBACK_FACTOR = 0.5
"""Each rollback multiplies the learning rate by this."""
WARNINGS = 3
"""Skipped steps that are reported one by one."""
OVERFLOW = "overflow"
"""Reason of a step that is skipped in fp16 because the scaled gradient is too large, which is normal now and then."""
SLOW, FAST = 0.01, 0.2
"""Weights of a new loss in the slow and the fast moving average."""
HIGH, NORMAL = 3.0, 1.5
"""The loss is high when its fast average exceeds the slow one by the factor `HIGH`, until it is below `NORMAL`."""
FIRST_WATCHED = 20
"""Steps before the loss is watched."""


class DivergenceWatch:
    """Keeps the account of skipped steps and of the loss in a run's `TrainProgress`, so that a resume changes nothing.

    Args:
        settings: When training counts as diverged.
        reporter: For warnings.
    """

    def __init__(self, settings: TrainSettings, reporter: Reporter) -> None:
        self._settings, self._reporter = settings, reporter
        self._lower_rate = settings.lr * ROLLBACK_FACTOR
        self._last_images: list[str] = []

    def step_taken(self, progress: TrainProgress, loss: float) -> None:
        """Record a step that was taken; warn once when its loss is much higher than usual."""
        progress.bad_steps = 0
        if progress.usual_loss is None or progress.recent_loss is None:
            progress.usual_loss = progress.recent_loss = loss
        taken = progress.step - progress.skipped_steps
        progress.recent_loss += FAST * (loss - progress.recent_loss)
        if not progress.loss_is_high and taken > FIRST_WATCHED and progress.recent_loss > HIGH * progress.usual_loss:
            progress.loss_is_high = True
            self._reporter.warn(
                f"the loss rose from about {progress.usual_loss:.3g} to {progress.recent_loss:.3g} at step "
                f"{progress.step}; if it stays there, stop and resume with a lower learning rate "
                f"(--set train.lr={self._lower_rate:g})"
            )
        progress.usual_loss += max(SLOW, 1 / max(taken, 1)) * (
            min(loss, HIGH * progress.usual_loss) - progress.usual_loss
        )
        if progress.recent_loss < NORMAL * progress.usual_loss:
            progress.loss_is_high = False

    def step_skipped(self, progress: TrainProgress, reason: str, images: list[str], replay: str = "") -> None:
        """Record a skipped step, and report the first ones.

        Args:
            progress: The progress after the step.
            reason: As in `SkippedStep`.
            images: File names of the images concerned.
            replay: Command that shows where the step failed, if it was recorded.
        """
        progress.skipped_steps += 1
        if reason == OVERFLOW:
            progress.overflows += 1  # the next step uses a lower scale
            return
        progress.bad_steps += 1
        self._last_images = images
        reported = progress.skipped_steps - progress.overflows
        if reported <= WARNINGS:
            more = f"; to find the cause, run `{replay}`" if replay else ""
            more += "; further skipped steps are only listed in metrics.jsonl" * (reported == WARNINGS)
            self._reporter.warn(
                f"step {progress.step} was skipped because its {reason} is not finite; images: {listing(images)}{more}"
            )

    def check(self, progress: TrainProgress) -> None:
        """Raise NonFiniteError if too many steps in a row were skipped."""
        if progress.bad_steps < self._settings.max_bad_steps:
            return
        raise NonFiniteError(
            f"the loss or the gradient was not finite in {counted(progress.bad_steps, 'step')} in a row, up to step "
            f"{progress.step} (images: {listing(self._last_images)})"
        )

    def can_roll_back(self, progress: TrainProgress, saved_step: int | None) -> bool:
        """Return whether to return to the checkpoint of step `saved_step`."""
        allowed = self._settings.on_divergence == "rollback" and progress.rollbacks < MAX_ROLLBACKS
        return allowed and saved_step is not None

    def advice(self, progress: TrainProgress, saved_step: int | None, replay: str = "") -> str:
        """Return what to do after training diverged.

        Args:
            progress: Of the run, when it diverged.
            saved_step: Step of the last checkpoint; None if there is none.
            replay: Command that shows where the first bad step failed, if it was recorded.
        """
        rate = f"a lower learning rate (--set train.lr={self._lower_rate:g})"
        if saved_step is not None:
            tried = f"training returned to earlier checkpoints {counted(progress.rollbacks, 'time')}; "
            text = tried * bool(progress.rollbacks)
            text += f"the checkpoint of step {saved_step} is from before that; resume from it with --resume and {rate}"
        elif progress.skipped_steps == progress.step:
            text = "no step succeeded, so check the initial weights, the images and train.precision"
        else:
            text = f"no checkpoint was saved; start again with {rate} or with --set train.warmup_steps=500"
        return f"{text}; to find the cause, run `{replay}`" if replay else text
