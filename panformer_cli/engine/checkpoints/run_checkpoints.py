"""The checkpoints of a training run: the last, from which it resumes, and the best."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

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
    load_optimizer_state,
    load_weights,
    optimizer_state,
    read_checkpoint,
    read_training_state,
    save_checkpoint,
)
from panformer_cli.engine.checkpoints.random_state import random_state, set_random_state
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.runs import RunFolder
from panformer_cli.errors import CheckpointError, NonFiniteError
from panformer_cli.models.base import PanopticModel
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import recipe_to_dict
from panformer_cli.reporting import Reporter
from panformer_cli.wording import listing

SAVE_SECONDS = 600.0
"""Age at which the last checkpoint is due to be written again."""


class RunCheckpoints:
    """Saves the checkpoints of a run and resumes from the last one. Every rank calls the same methods.

    With `averaged`, a copy of the model with averaged weights, both are in the last checkpoint.

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
        averaged: PanopticModel | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        self.saved_step: int | None = None
        self.longest_save = 0.0
        self._process, self._run, self._recipe = process, run, recipe
        self._model, self._optimizer, self._averaged = model, optimizer, averaged
        self._scaler = scaler or GradScaler(process.device.type, enabled=False)
        self._saved_at = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is older than `SAVE_SECONDS`, by the clock of this rank."""
        return time.monotonic() - self._saved_at > SAVE_SECONDS

    def save_last(self, progress: TrainProgress) -> None:
        """Write the last checkpoint, with everything that is needed to resume.

        Raises:
            NonFiniteError: A weight, or a moment of the optimizer, is not finite; the existing file is unchanged.
            PanformerError: The file cannot be written.
        """
        self._saved_at = time.monotonic()
        self._process.spread(self._model.buffers())  # each rank has running statistics of its own until now
        averaged = self._averaged.state_dict() if self._averaged is not None else {}
        self._check_finite(progress)
        of_all = self._process.gather(random_state(self._process.device))
        if self._process.is_first:
            by_rank = {f"{rank}.{name}": state for rank, states in enumerate(of_all) for name, state in states.items()}
            state = TrainingState(
                optimizer_state(self._model, self._optimizer), by_rank, averaged, scaler_state(self._scaler)
            )
            save_checkpoint(self._run.last, self._model, self._recipe, self._model.categories, progress, state)
        self.saved_step = progress.step
        self.longest_save = max(self.longest_save, time.monotonic() - self._saved_at)

    def save_best(self, progress: TrainProgress) -> None:
        """Write the best checkpoint, from which no run resumes: the averaged weights, if there are any."""
        if self._process.is_first:
            model = self._model if self._averaged is None else self._averaged
            save_checkpoint(self._run.best, model, self._recipe, self._model.categories, progress)

    def _check_finite(self, progress: TrainProgress) -> None:
        """Raise NonFiniteError, on all ranks, if something that training changes is NaN or infinite."""
        trained = {name: value for name, value in self._model.named_parameters() if value.requires_grad}
        statistics = {name: value for name, value in self._model.named_buffers() if "running_" in name}
        for name, value in (trained | statistics | optimizer_state(self._model, self._optimizer)).items():
            if not bool(value.isfinite().all()):
                raise NonFiniteError(f"{name} is not finite after step {progress.step}")

    def roll_back(self) -> TrainProgress:
        """Return to the last checkpoint of this run, and return its progress."""
        self._optimizer.state.clear()
        return self.resume(self._process.on_first(lambda: read_checkpoint(self._run.last)))

    def resume(self, checkpoint: Checkpoint) -> TrainProgress:
        """Restore weights, optimizer and random state, drop later rows of the log, and return the progress."""
        load_weights(self._model, checkpoint, averaged=False)
        state = read_training_state(checkpoint)
        if self._averaged is not None:
            fill_model(self._averaged, checkpoint, state.averaged or self._model.state_dict())
        load_optimizer_state(self._model, self._optimizer, state.optimizer)
        load_scaler_state(self._scaler, state.scaler)
        prefix = f"{self._process.rank}."
        own = {name.removeprefix(prefix): value for name, value in state.random.items() if name.startswith(prefix)}
        set_random_state(own, self._process.device)  # ranks that the run did not have before keep theirs
        self.saved_step = checkpoint.progress.step
        if self._process.is_first:
            self._run.forget_after(self.saved_step)
        return checkpoint.progress


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
