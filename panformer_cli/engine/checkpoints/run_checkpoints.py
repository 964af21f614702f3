"""The checkpoints of a training run: the last, from which it resumes, the best, and those of earlier steps."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from panformer_cli.data.categories import CategoryTable
from panformer_cli.engine.checkpoints.checkpoint import (
    Checkpoint,
    TrainingState,
    TrainProgress,
    check_has_state,
    fill_model,
    is_finite,
    load_optimizer_state,
    load_weights,
    optimizer_state,
    read_checkpoint,
    read_training_state,
    save_checkpoint,
)
from panformer_cli.engine.checkpoints.kept_checkpoints import (
    epochs_to_keep,
    keep_last,
    keeps_checkpoints,
    remove_others,
)
from panformer_cli.engine.checkpoints.random_state import random_state, set_random_state
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.runs import RunFolder
from panformer_cli.errors import CheckpointError, NonFiniteError, PanformerError, WriteError
from panformer_cli.models.base import PanopticModel
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import recipe_to_dict, recipe_to_yaml
from panformer_cli.reporting import Reporter, SilentReporter, megabytes
from panformer_cli.storage.files import write_text
from panformer_cli.wording import listing

RETRY_SECONDS = 60.0
"""Time until the next attempt after a checkpoint could not be written."""
PATIENCE_SECONDS, STOP_SECONDS = 600.0, 10.0
"""How long the end of a run waits for a disk that cannot be written, and how long if it was asked to stop."""
POLL_SECONDS = 1.0


class LogState(Protocol):
    """What the log of this rank has collected since its last row."""

    def state(self) -> dict[str, Tensor]:
        """Return it as tensors on the CPU."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""


class RunCheckpoints:
    """Saves the checkpoints of a run and resumes from the last one. Every rank calls the same methods.

    A checkpoint that cannot be written does not end the run: it is reported, and written again soon. Only `finish`,
    when the run ends, insists. With `averaged`, a copy of the model with averaged weights, both are in the last
    checkpoint.

    Attributes:
        saved_step: Step of the last checkpoint; None if there is none.
        longest_save: Longest time that writing the last checkpoint took, in seconds; 0 before the first one.
    """

    def __init__(
        self,
        process: Process,
        run: RunFolder,
        recipe: Recipe,
        model: PanopticModel,
        optimizer: Optimizer,
        reporter: Reporter,
        averaged: PanopticModel | None = None,
        scaler: GradScaler | None = None,
        log: LogState | None = None,
    ) -> None:
        self.saved_step: int | None = None
        self.longest_save = 0.0
        self._process, self._run, self._recipe, self._reporter = process, run, recipe, reporter
        self._model, self._optimizer, self._averaged = model, optimizer, averaged
        self._scaler = scaler or GradScaler(process.device.type, enabled=False)
        self._log = log
        self._due_at = time.monotonic() + 60 * recipe.train.save_minutes
        self._step_in_last: int | None = None  # None if the file is missing or corrupt
        self._problem: str | None = None
        self._owed_best: TrainProgress | None = None

    def use_recipe(self, recipe: Recipe) -> None:
        """Write this recipe to the checkpoints from now on."""
        self._recipe = recipe

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is older than `train.save_minutes`, by the clock of this rank."""
        return time.monotonic() > self._due_at

    def is_kept(self, progress: TrainProgress) -> bool:
        """Return whether an epoch whose checkpoint `train.keep_every` keeps has ended since the last checkpoint.

        After a failed attempt to write it, only `is_due` says when to try again.
        """
        saved, now = (
            epochs_to_keep(self._recipe.train, progress, step) for step in (self.saved_step or 0, progress.step)
        )
        return saved < now and self._problem is None

    def save_last(self, progress: TrainProgress, is_ending: bool = False) -> None:
        """Write the last checkpoint, with everything that is needed to resume; a failure is reported.

        Args:
            progress: The progress of the run.
            is_ending: Whether the run ends now, so that `finish` tries again what fails.

        Raises:
            NonFiniteError: A weight, or a moment of the optimizer, is not finite; the existing file is unchanged.
        """
        began = time.monotonic()
        state = self._state(progress)
        self._problem = self._process.on_first(lambda: self._attempt(self._run.last, progress, state))
        self._settle(progress)
        self.longest_save = max(self.longest_save, time.monotonic() - began)
        if self._problem is not None:
            again = f"training continues, and saves again in {RETRY_SECONDS:.0f} s"
            self._reporter.warn(f"{self._problem}; {'it is tried again before the run ends' if is_ending else again}")

    def save_alone(self, progress: TrainProgress) -> None:
        """Write the last checkpoint on a rank that failed, while the others wait for it; `saved_step` tells the result.

        Weights and optimizer are the same on all ranks. Of the random states, and of the log since its last row, the
        file has only those of this rank.
        """
        rank = self._process.rank
        random, log = {rank: random_state(self._process.device)}, {rank: self._log.state() if self._log else {}}
        with suppress(NonFiniteError):  # the weights are of no use
            self._check_finite(progress)
            if self._run.path.is_dir() and self._attempt(self._run.last, progress, self._full(random, log)) is None:
                self.saved_step = progress.step

    def save_best(self, progress: TrainProgress) -> bool:
        """Write the best checkpoint, from which no run resumes: the averaged weights, if there are any.

        Returns:
            Whether it was written. A failure is reported.
        """
        problem = self._process.on_first(lambda: self._attempt(self._run.best, progress, None))
        self._owed_best = None if problem is None else replace(progress)
        if problem is not None:
            self._reporter.warn(f"{problem}; the best model is not saved")
        return problem is None

    def finish(self, progress: TrainProgress, is_stopping: Callable[[], bool]) -> None:
        """Before the run ends, write what could not be written, and wait for the disk if necessary.

        Args:
            progress: The progress of the run.
            is_stopping: Returns whether the run was asked to stop, after which it does not wait for long.

        Raises:
            WriteError: The checkpoint cannot be written. The message has the path of a copy elsewhere, if there is one.
        """
        if self._problem is not None:
            state = self._state(progress)
            self._process.on_first(lambda: self._insist(progress, state, is_stopping))
            self._problem = None
            self._settle(progress)
        best, self._owed_best = self._owed_best, None
        if best is not None and best.step == progress.step:
            self.save_best(best)

    def roll_back(self) -> TrainProgress:
        """Return to the last checkpoint of this run, and return its progress."""
        self._optimizer.state.clear()
        return self.resume(self._process.on_first(lambda: checkpoint_to_resume(self._run, SilentReporter())))

    def resume(self, checkpoint: Checkpoint) -> TrainProgress:
        """Restore weights, optimizer and random state, drop later rows of the log, and return the progress."""
        load_weights(self._model, checkpoint, averaged=False)
        state = read_training_state(checkpoint)
        if self._averaged is not None:
            fill_model(self._averaged, checkpoint, state.averaged or self._model.state_dict())
        load_optimizer_state(self._model, self._optimizer, state.optimizer)
        load_scaler_state(self._scaler, state.scaler)
        # Ranks that the run did not have before keep their random state.
        set_random_state(_of_rank(self._process.rank, state.random), self._process.device)
        if self._log is not None:
            self._log.restore(_row_of_rank(self._process, state.log))
        progress = checkpoint.progress
        self.saved_step = progress.step
        self._step_in_last = progress.step if checkpoint.path == self._run.last else None
        self._process.on_first(lambda: self._run.forget_after(progress.step, progress.evaluated_step))
        return progress

    def _state(self, progress: TrainProgress) -> TrainingState | None:
        """Return the state of all ranks besides the weights, on rank 0; every rank calls this.

        Raises:
            NonFiniteError: A weight, or a moment of the optimizer, is not finite.
        """
        self._process.spread(self._model.buffers())  # each rank has running statistics of its own until now
        self._check_finite(progress)
        random = self._process.gather(random_state(self._process.device))
        log = self._process.gather(self._log.state() if self._log is not None else {})
        return self._full(dict(enumerate(random)), dict(enumerate(log))) if self._process.is_first else None

    def _full(self, random: Mapping[int, dict[str, Tensor]], log: Mapping[int, dict[str, Tensor]]) -> TrainingState:
        """Return the state besides the weights, with random states and logs by rank."""
        averaged = self._averaged.state_dict() if self._averaged is not None else {}
        optimizer = optimizer_state(self._model, self._optimizer)
        return TrainingState(optimizer, _by_rank(random), averaged, scaler_state(self._scaler), _by_rank(log))

    def _check_finite(self, progress: TrainProgress) -> None:
        """Raise NonFiniteError, on all ranks, if something that training changes is NaN or infinite."""
        trained = {name: value for name, value in self._model.named_parameters() if value.requires_grad}
        statistics = {name: value for name, value in self._model.named_buffers() if "running_" in name}
        for name, value in (trained | statistics | optimizer_state(self._model, self._optimizer)).items():
            if not is_finite(value):
                raise NonFiniteError(f"{name} is not finite after step {progress.step}")

    def _settle(self, progress: TrainProgress) -> None:
        """Note whether the last checkpoint was written; every rank does the same."""
        failed = self._problem is not None
        self._due_at = time.monotonic() + (RETRY_SECONDS if failed else 60 * self._recipe.train.save_minutes)
        if not failed:
            self.saved_step = self._step_in_last = progress.step

    def _attempt(self, path: Path, progress: TrainProgress, state: TrainingState | None) -> str | None:
        """Write a checkpoint on rank 0, and return why it cannot be written; None if it was."""
        try:
            self._write(path, progress, state)
        except WriteError as error:
            return str(error)
        return None

    def _write(self, path: Path, progress: TrainProgress, state: TrainingState | None) -> None:
        settings, kept = self._recipe.train, path == self._run.last and progress.step != self._step_in_last
        if kept and self._step_in_last is not None and keeps_checkpoints(settings):
            keep_last(self._run, self._step_in_last)
        model = self._averaged if self._averaged is not None and path == self._run.best else self._model
        save_checkpoint(path, model, self._recipe, self._model.categories, progress, state)
        if kept and keeps_checkpoints(settings):
            remove_others(self._run, settings, progress)
        if not self._run.recipe.is_file():  # the folder was deleted
            write_text(self._run.recipe, recipe_to_yaml(self._recipe))

    def _insist(self, progress: TrainProgress, state: TrainingState | None, is_stopping: Callable[[], bool]) -> None:
        """Write the last checkpoint on rank 0: first a copy elsewhere, and then again and again until the time is up.

        Raises:
            WriteError: The time is up.
        """
        try:
            copy = Path(tempfile.gettempdir()) / f"panformer-{self._run.path.name}-step-{progress.step}.safetensors"
            elsewhere = self._attempt(copy, progress, state)
        except FileNotFoundError as error:  # no temporary folder can be written
            copy, elsewhere = self._run.last, str(error)
        saved = "" if elsewhere else f"; step {progress.step} is saved in {copy}"
        began, told = time.monotonic(), False
        while (problem := self._attempt(self._run.last, progress, state)) is not None:
            limit = STOP_SECONDS if is_stopping() else PATIENCE_SECONDS
            if time.monotonic() - began >= limit:
                advice = "" if elsewhere else f"; to resume, move it to {self._run.last}"
                raise WriteError(f"{problem}{saved}{advice}")
            if not told:
                self._reporter.warn(
                    f"{problem}{saved}; the run ends as soon as it can be written, within {limit:.0f} s"
                )
                told = True
            time.sleep(POLL_SECONDS)
        if elsewhere is None:
            copy.unlink(missing_ok=True)


def _by_rank(states: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of some ranks by `<rank>.<name>`."""
    return {f"{rank}.{name}": value for rank, own in states.items() for name, value in own.items()}


def _of_rank(rank: int, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a rank by name, of those that `_by_rank` returned."""
    prefix = f"{rank}."
    return {name.removeprefix(prefix): value for name, value in states.items() if name.startswith(prefix)}


def _row_of_rank(process: Process, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the log of this rank has collected, of the states of some ranks.

    It is empty if a rank has none: a row is a mean over all ranks, so it continues on all of them or on none.
    """
    logs = [_of_rank(rank, states) for rank in range(process.world_size)]
    return logs[process.rank] if all(logs) else {}


def check_space(
    run: RunFolder, model: PanopticModel, recipe: Recipe, epochs: int, processes: int, reporter: Reporter
) -> None:
    """Check that the disk has space for the checkpoints of a run, before anything is lost.

    Args:
        run: The folder of the run.
        model: The model.
        recipe: Its settings say how many checkpoints are kept.
        epochs: Number of epochs that the run still has.
        processes: Number of processes; each of them can write the weights once if a step fails.
        reporter: Gets a warning if there is no space for all files that the run can keep.

    Raises:
        PanformerError: There is no space for `last` and `best`.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    trained = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)
    last = weights + 2 * trained  # AdamW has two moments of each weight
    last += weights * (recipe.train.ema_decay is not None)
    existing = sum(path.stat().st_size for path in (run.last, run.best) if path.is_file())
    needed = 2 * last + weights - existing  # the old `last` stays until the new one is complete
    free = shutil.disk_usage(run.path).free
    if free < needed:
        raise PanformerError(
            f"{run.path}: the disk has {megabytes(free)} MB free, but last.safetensors and best.safetensors need "
            f"{megabytes(needed)} MB; free some space or choose another folder"
        )
    settings = recipe.train
    kept = settings.keep_last + settings.keep_best + (epochs // settings.keep_every if settings.keep_every else 0)
    needed += kept * last + (0 if run.bad_steps else processes * weights)
    if free < needed:
        reporter.warn(
            f"{run.path}: the disk has {megabytes(free)} MB free, but all files that the run can keep need "
            f"{megabytes(needed)} MB (train.keep_last, train.keep_every, train.keep_best, and bad-step-<n>.safetensors "
            "if a step fails)"
        )


def scaler_state(scaler: GradScaler) -> dict[str, Tensor]:
    """Return the state of a gradient scaler; empty if it is disabled."""
    if not scaler.is_enabled():
        return {}
    state = scaler.state_dict()
    scale, tracker = torch.tensor(state["scale"], dtype=torch.float64), torch.tensor(state["_growth_tracker"])
    return {"scale": scale, "growth_tracker": tracker}


def load_scaler_state(scaler: GradScaler, state: Mapping[str, Tensor]) -> None:
    """Restore what `scaler_state` returned; a run that changes to fp16 starts with a new scale."""
    if scaler.is_enabled() and state:
        known = {"scale": float(state["scale"]), "_growth_tracker": int(state["growth_tracker"])}
        scaler.load_state_dict(scaler.state_dict() | known)


def checkpoint_to_resume(run: RunFolder, reporter: Reporter) -> Checkpoint:
    """Return the last checkpoint of a run or, if it is missing or corrupt, the kept one with the most steps.

    Raises:
        CheckpointError: There is no checkpoint that is whole and has the state to resume.
    """
    try:
        return _with_state(run.last)
    except CheckpointError as error:
        problem = str(error)
    whole = []
    for path in run.step_checkpoints:
        with suppress(CheckpointError):
            whole.append(_with_state(path))
    if not whole:
        also = "; best.safetensors can start a new run with --init-from" if run.best.is_file() else ""
        raise CheckpointError(f"--resume: the run in {run.path} has no checkpoint to resume from: {problem}{also}")
    newest = max(whole, key=lambda checkpoint: checkpoint.progress.step)
    reporter.warn(f"{problem}; resuming from {newest.path.name} (step {newest.progress.step}) instead")
    return newest


def _with_state(path: Path) -> Checkpoint:
    checkpoint = read_checkpoint(path)
    check_has_state(checkpoint)
    return checkpoint


def check_same_model(recipe: Recipe, categories: CategoryTable, run: RunFolder, checkpoint: Checkpoint) -> None:
    """Check that a run resumes with the model and categories that it began with; data path and schedule may differ.

    Raises:
        CheckpointError: Model or categories differ from those of the checkpoint.
    """
    before, now = recipe_to_dict(checkpoint.recipe)["model"], recipe_to_dict(recipe)["model"]
    lasting = [key for key in now if key not in recipe.model.starting_only]
    changed = [
        f"model.{key} was {before.get(key)!r} and is {now[key]!r}" for key in lasting if before.get(key) != now[key]
    ]
    if changed:
        raise CheckpointError(
            f"--resume: the run in {run.path} is of recipe {checkpoint.recipe.name} with a different model: "
            f"{listing(changed, 3, '; ')}; omit these settings to resume with those of the run"
        )
    if not checkpoint.categories.has_labels_of(categories):
        raise CheckpointError(
            f"--resume: the run in {run.path} was trained on categories that differ from those of {recipe.data.root} "
            f"({len(checkpoint.categories)} and {len(categories)}, or other ids); use the data set of the run"
        )
