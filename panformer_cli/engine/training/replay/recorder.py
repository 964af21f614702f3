"""Writes the first skipped step of a run to its folder, so that it can be computed again."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from panformer_cli.engine.checkpoints.checkpoint import TrainProgress
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.divergence import OVERFLOW
from panformer_cli.engine.training.replay.bad_step import BadStep
from panformer_cli.engine.training.step import SkippedStep, StepInputs, total_loss
from panformer_cli.errors import WriteError
from panformer_cli.models.base import PanopticModel
from panformer_cli.recipe import Recipe
from panformer_cli.reporting import Reporter


class BadStepRecorder:
    """Writes a file for the first bad step of a run, unless the folder has one. Every rank calls the same methods.

    Args:
        process: This process.
        run: The folder of the run.
        model: The model that is trained.
        reporter: For warnings.

    Attributes:
        command: Command that replays the first bad step; empty if there was none.
    """

    def __init__(self, process: Process, run: RunFolder, model: PanopticModel, reporter: Reporter) -> None:
        self.command = ""
        self._process, self._run, self._model, self._reporter = process, run, model, reporter
        self._is_done = False

    def record(
        self, skipped: SkippedStep, inputs: StepInputs, images: list[str], recipe: Recipe, progress: TrainProgress
    ) -> bool:
        """Write the step that was just skipped, if it is the first bad one; a failure is reported.

        Each process whose own losses were not finite writes a file. If only the gradient was not, which is that of all
        processes together, each process writes one.

        Args:
            skipped: Why it was skipped.
            inputs: What this process computed it from.
            images: File names of the images concerned.
            recipe: All settings of the step.
            progress: The progress after the step.

        Returns:
            Whether `command` replays this step.
        """
        if self._is_done or skipped.reason == OVERFLOW:
            return False
        self._is_done = True
        existing = self._process.on_first(lambda: self._run.bad_steps)
        if existing:
            self.command = _replaying(existing[0])
            return False
        is_concerned = skipped.reason != "loss" or not _all_finite(inputs)
        step = BadStep.of(self._process, progress.step, skipped.reason, images, inputs)
        before = replace(progress, step=progress.step - 1)
        path = self._run.bad_step(progress.step, step.rank if step.world_size > 1 else None)
        problem = None
        if is_concerned:
            try:
                step.write(path, self._model, recipe, before)
            except Exception as error:  # such as too little memory for a copy; the other ranks wait for this one
                reason = str(error) if isinstance(error, WriteError) else f"cannot write {path}: {error!r}"
                problem = f"{reason}; the run continues without a record of step {progress.step}"
        outcomes = self._process.gather((path if is_concerned and problem is None else None, problem))
        for _, failure in outcomes:
            if failure is not None:
                self._reporter.warn(failure)
        written = [file for file, _ in outcomes if file is not None]
        if written:
            self.command = _replaying(written[0])
        return bool(written)


def _all_finite(inputs: StepInputs) -> bool:
    """Return whether the losses of this process are finite, and so are their sums, which can overflow."""
    return all(bool(total_loss(losses).isfinite()) for losses in inputs.losses)


def _replaying(path: Path) -> str:
    return shlex.join(["panformer", "train", "--replay", str(path)])
