"""Compute a skipped step again: losses and gradients, and where the first value that is not finite comes from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from panformer_cli.engine.checkpoints.checkpoint import Checkpoint, load_weights
from panformer_cli.engine.checkpoints.random_state import random_state, set_random_state
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.precision import autocast
from panformer_cli.engine.training.memory.parts import use_parts
from panformer_cli.engine.training.numerics import numerics
from panformer_cli.engine.training.replay.bad_step import BadStep, read_bad_step
from panformer_cli.engine.training.replay.finite_watch import FiniteWatch, all_finite, watching
from panformer_cli.engine.training.step import NO_LOSSES, total_loss
from panformer_cli.errors import CheckpointError, NonFiniteError
from panformer_cli.models.base import PanopticModel
from panformer_cli.models.build import build_model
from panformer_cli.reporting import Reporter
from panformer_cli.settings import TrainSettings

SUM = "sum"
"""What `Replay.loss` is if all losses of a forward pass are finite, but their sum is too large."""


@dataclass(frozen=True)
class ReplayedLoss:
    """A loss of one forward pass.

    Attributes:
        batch: The forward pass, from 0.
        name: Name of the loss; `NO_LOSSES` if the model found a value that is not finite before it computed any.
        before: Its value in training; None if training had none of this name.
        now: Its value here.
    """

    batch: int
    name: str
    before: float | None
    now: float


@dataclass(frozen=True)
class Replay:
    """What computing a step again has found.

    Attributes:
        step: The step.
        losses: All losses.
        is_equal: Whether all losses have the values that they had in training, bit for bit.
        differs: What is not the same as in training and can change the values; empty if nothing is known to differ.
        weights: Weights and buffers that were not finite before the step.
        images: Whether the images of the step are finite.
        largest_pixel: Largest absolute value of the normalized images.
        watch: The first module whose output or gradient is not finite.
        loss: Name of the first loss that is not finite; `SUM` if only a sum is not; None if all are finite.
        gradients: Parameters whose gradient is not finite.
        parameters: Number of parameters with a gradient.
    """

    step: BadStep
    losses: list[ReplayedLoss]
    is_equal: bool
    differs: list[str]
    weights: list[str]
    images: bool
    largest_pixel: float
    watch: FiniteWatch
    loss: str | None
    gradients: list[str]
    parameters: int


def replay(path: Path, process: Process, reporter: Reporter) -> Replay:
    """Compute the step in a file of a run again; nothing is written, and the run is not changed.

    Args:
        path: bad-step-<n>.safetensors in the folder of a run.
        process: This process. With sampling `auto`, that of the run is used if its device is of the same type.
        reporter: For warnings.

    Raises:
        CheckpointError: The file cannot be used.
    """
    checkpoint, step = read_bad_step(path)
    is_same_device = process.device.type == step.device
    settings, differs = _settings(checkpoint.recipe.train, step, process)
    if process.sampling == "auto" and is_same_device:
        process = replace(process, sampling=step.sampling)
    elif process.sampling != step.sampling:
        differs.append(f"--sampling is {process.sampling}, and was {step.sampling}")
    with (
        numerics(settings, process, reporter),
        _threads(step.threads if is_same_device else None),
        _random_kept(process),
    ):
        model = _model(checkpoint, settings, process, reporter)
        state = model.state_dict()
        weights = [name for name, value in state.items() if value.is_floating_point() and not all_finite([value])]
        try:
            set_random_state(step.inputs.random, process.device)
        except (RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"--replay {path}: the recorded random state is corrupt; copy the file again"
            ) from error
        with watching(model) as watch:
            computed = _backward(model, step, settings, process)
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    losses = _compared(step, computed)
    images = [batch.images for batch in step.inputs.batches]
    return Replay(
        step=step,
        losses=losses,
        is_equal=_are_equal(step, computed),
        differs=differs,
        weights=weights,
        images=all_finite(images),
        largest_pixel=max(float(image.abs().max()) for image in images),
        watch=watch,
        loss=_first_bad_loss(computed),
        gradients=[name for name, gradient in gradients.items() if not all_finite([gradient])],
        parameters=len(gradients),
    )


def _settings(train: TrainSettings, step: BadStep, process: Process) -> tuple[TrainSettings, list[str]]:
    """Return the settings to compute with here, and what is not as in training."""
    differs = []
    if process.device.type != step.device:
        differs.append(f"the device is {process.device.type}, and was {step.device}")
    if train.precision == "fp16" and process.device.type == "cpu":
        differs.append("the precision is fp32, and was fp16, which needs a GPU")
        train = replace(train, precision="fp32")
    if train.compile:
        differs.append("nothing is compiled (train.compile)")
        train = replace(train, compile=())
    if train.sync_batch_norm:
        differs.append("BatchNorm uses the images of one process only (train.sync_batch_norm)")
        train = replace(train, sync_batch_norm=False)
    return train, differs


def _model(checkpoint: Checkpoint, settings: TrainSettings, process: Process, reporter: Reporter) -> PanopticModel:
    """Return the model in training mode, with the weights from before the step."""
    recipe = checkpoint.recipe
    model: PanopticModel = build_model(recipe.model, recipe.inference, checkpoint.categories, False, process.sampling)
    load_weights(model, checkpoint)
    model = model.to(process.device)
    model.freeze(settings.freeze)
    use_parts(model, settings, process.device, reporter)
    return model.train()


def _backward(
    model: PanopticModel, step: BadStep, settings: TrainSettings, process: Process
) -> list[dict[str, Tensor]]:
    """Set the gradients as `OptimizerStep.accumulate` does, without other processes; return the losses by batch."""
    inputs, computed = step.inputs, list[dict[str, Tensor]]()
    for batch in inputs.batches:
        try:
            with autocast(settings.precision, process.device):
                losses: dict[str, Tensor] = model(batch.to(process.device), inputs.counts)
        except NonFiniteError:
            computed.append({NO_LOSSES: torch.tensor(math.nan)})
            continue
        (total_loss(losses, len(inputs.batches)) * inputs.scale).backward()
        computed.append({name: value.detach() for name, value in losses.items()})
    return computed


def _compared(step: BadStep, computed: list[dict[str, Tensor]]) -> list[ReplayedLoss]:
    before = [{name: float(value) for name, value in losses.items()} for losses in step.inputs.losses]
    before += [{}] * (len(computed) - len(before))
    return [
        ReplayedLoss(batch, name, before[batch].get(name), float(value))
        for batch, losses in enumerate(computed)
        for name, value in losses.items()
    ]


def _first_bad_loss(computed: list[dict[str, Tensor]]) -> str | None:
    """Return `Replay.loss` for the losses of each batch."""
    names = (name for losses in computed for name, value in losses.items() if not all_finite([value]))
    overflows = not all_finite([total_loss(losses) for losses in computed])
    return next(names, SUM if overflows else None)


def _are_equal(step: BadStep, computed: list[dict[str, Tensor]]) -> bool:
    """Return whether all losses are bitwise equal to those in training; NaN equals NaN."""
    before = step.inputs.losses
    return len(before) == len(computed) and all(
        old.keys() == new.keys()
        and all(torch.allclose(old[name], new[name].cpu(), rtol=0, atol=0, equal_nan=True) for name in old)
        for old, new in zip(before, computed, strict=True)
    )


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Let torch use this number of threads, on which the order of sums depends; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _random_kept(process: Process) -> Iterator[None]:
    """Restore torch's random state at the end."""
    before = random_state(process.device)
    try:
        yield
    finally:
        set_random_state(before, process.device)
