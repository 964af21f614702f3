"""One optimizer step: losses of all images of all processes, gradients, clipping, AdamW.

A step whose loss or gradient is not finite on any process changes nothing on all of them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel

from panformer_cli.data.structures import Batch
from panformer_cli.engine.checkpoints.random_state import random_state, set_random_state
from panformer_cli.engine.distributed.out_of_memory import is_out_of_memory
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.precision import autocast
from panformer_cli.engine.training.optimizer import build_optimizer
from panformer_cli.engine.training.running_statistics import running_statistics
from panformer_cli.engine.training.schedule import set_learning_rate
from panformer_cli.engine.training.watching.step_clock import NoClock, StepClock
from panformer_cli.errors import NonFiniteError
from panformer_cli.models.base import LossCounts, PanopticModel, count_segments
from panformer_cli.settings import TrainSettings

NO_LOSSES = "not_finite"
"""Name of the only loss, NaN, of a forward pass that ended before its losses because a value was not finite."""


@dataclass(frozen=True)
class SkippedStep:
    """Why a step was skipped.

    Attributes:
        reason: `loss` or `gradient`, whichever was not finite; `overflow` if only the gradient was not, and it was
            scaled for fp16. Then the next step uses half the scale.
        image_ids: The images whose loss was not finite; all images of the step if only the gradient was not; none for
            `overflow`, which is normal.
    """

    reason: str
    image_ids: list[int | str]


@dataclass(frozen=True)
class StepInputs:
    """What one process computed the losses and gradients of a skipped step from, besides the model.

    Attributes:
        batches: Its batches, one for each forward pass.
        counts: What normalizes the losses.
        scale: Factor on the losses for fp16; 1 in other precisions.
        random: torch's random states before the first forward pass; see `random_state`.
        losses: The losses of each batch by name, detached, on their device.
    """

    batches: list[Batch]
    counts: LossCounts
    scale: float
    random: dict[str, Tensor]
    losses: list[dict[str, Tensor]]


@dataclass(frozen=True)
class StepResult:
    """What a step reports.

    Attributes:
        losses: The losses of each batch of this process by name, detached, on their device.
        gradient_norm: L2 norm of the gradient of all parameters before clipping, a scalar on the device.
        loss: The total loss, averaged over all images of all processes; NaN for a skipped step.
        skipped: Why nothing was changed; None if the step was taken. The same on all ranks.
        inputs: What this process computed a skipped step from; None if the step was taken.
    """

    losses: list[dict[str, Tensor]]
    gradient_norm: Tensor
    loss: float = math.nan
    skipped: SkippedStep | None = None
    inputs: StepInputs | None = None


@dataclass(frozen=True)
class StepLosses:
    """The losses of a step, all finite.

    Attributes:
        by_batch: The losses of each batch of this process by name, detached, on their device.
        mean: The total loss, averaged over all images of all processes.
    """

    by_batch: list[dict[str, Tensor]]
    mean: float


class OptimizerStep:
    """Takes optimizer steps with a model. Every rank calls the same methods.

    In fp16 the losses are multiplied by a scale, so that small gradients do not become 0. Gradients are divided by it
    before their norm is computed and clipped.

    Args:
        process: This process.
        model: The model, on its device.
        settings: Batch size, learning rates, clipping and precision.

    Attributes:
        clock: Measures the parts of a step.
    """

    def __init__(self, process: Process, model: PanopticModel, settings: TrainSettings) -> None:
        self.model = model
        self.optimizer = build_optimizer(model, settings)
        self.scaler = GradScaler(process.device.type, enabled=settings.precision == "fp16")
        self.clock: StepClock = NoClock()
        self._process, self._settings = process, settings
        self._random = dict[str, Tensor]()  # before the first forward pass of the step
        self._losses_or_nan = _LossesOrNaN(model, process, settings.sync_batch_norm)
        self._parallel: nn.Module = self._losses_or_nan
        if process.world_size > 1:
            self._parallel = distributed(self._losses_or_nan)

    def take(self, batches: list[Batch], factor: float) -> StepResult:
        """Take one optimizer step, or change nothing if a loss or a gradient is not finite.

        Args:
            batches: This process's share of the images, one batch per forward pass.
            factor: Factor on all learning rates.

        Raises:
            SharedOutOfMemoryError: There are several processes, and memory ran out in a forward pass of any of them.
        """
        self._random = random_state(self._process.device)
        self._parallel.train()
        set_learning_rate(self.optimizer, factor)
        counts, scale = self.count(batches), self._scale()
        losses = StepLosses([], math.nan)
        try:
            with self._statistics_restored_on_error():
                losses = self.accumulate(batches, counts)
                with self.clock.part("clipping"):
                    self.scaler.unscale_(self.optimizer)
                    norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._settings.clip_norm)
                if not torch.isfinite(norm):  # the same on all ranks, because gradients are averaged
                    raise self._bad_gradient(batches)
        except _SkipStep as error:
            self.optimizer.zero_grad()
            inputs = StepInputs(batches, counts, scale, self._random, error.losses or losses.by_batch)
            return StepResult([], torch.tensor(math.nan), skipped=error.skipped, inputs=inputs)
        with self.clock.part("optimizer"):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return StepResult(losses.by_batch, norm, losses.mean)

    def forget_failed_step(self) -> None:
        """Undo what a step that ran out of memory has changed: random states, gradients, and moments.

        Only moments that exist for a parameter in part are deleted.
        """
        set_random_state(self._random, self._process.device)
        self.optimizer.zero_grad()
        for parameter, state in list(self.optimizer.state.items()):
            if "exp_avg_sq" not in state:
                del self.optimizer.state[parameter]

    def accumulate(self, batches: list[Batch], counts: LossCounts) -> StepLosses:
        """Set the gradients to those of all batches of all processes.

        Raises:
            NonFiniteError: A loss is not finite on some rank; raised on all ranks.
            SharedOutOfMemoryError: Memory ran out in a forward pass on some rank; raised on all ranks.
        """
        self.optimizer.zero_grad()
        self._losses_or_nan.ran_out_of_memory = False
        detached = []
        for index, batch in enumerate(batches):
            with self._synchronized(last=index == len(batches) - 1):
                with self.clock.part("forward"):
                    losses = self._losses(batch, counts)
                with self.clock.part("backward"):
                    # Also if they are NaN: in the last backward pass every rank waits for the gradients of all others.
                    self.scaler.scale(total_loss(losses, len(batches))).backward()
            detached.append({name: value.detach() for name, value in losses.items()})
        return StepLosses(detached, self._checked_mean(batches, detached))

    def _losses(self, batch: Batch, counts: LossCounts) -> dict[str, Tensor]:
        with autocast(self._settings.precision, self._process.device):
            losses: dict[str, Tensor] = self._parallel(batch, counts)
        return losses

    def _checked_mean(self, batches: list[Batch], losses: list[dict[str, Tensor]]) -> float:
        """Return the total loss, averaged over all images of all processes.

        Args:
            batches: This process's batches.
            losses: Their losses.

        Raises:
            NonFiniteError: A loss is not finite on some rank; raised on all ranks.
            SharedOutOfMemoryError: Memory ran out in a forward pass on some rank; raised on all ranks.
        """
        totals = torch.stack([total_loss(each) for each in losses]).tolist()
        bad = [batch for batch, total in zip(batches, totals, strict=True) if not math.isfinite(total)]
        own_mean = 0.0 if bad else sum(totals) / len(totals)
        own = torch.tensor([self._losses_or_nan.ran_out_of_memory, len(bad), own_mean], dtype=torch.float64)
        out_of_memory, failed, mean = self._process.sum(own).tolist()
        if out_of_memory:
            raise SharedOutOfMemoryError("memory ran out in a forward pass of one of several processes")
        if failed:
            raise _SkipStep("loss", self._ids(bad), losses)
        return float(mean) / self._process.world_size

    def _scale(self) -> float:
        return float(self.scaler.get_scale()) if self.scaler.is_enabled() else 1.0

    def _bad_gradient(self, batches: list[Batch]) -> _SkipStep:
        """Return the error for a gradient that is not finite; in fp16, lower the scale."""
        overflowed = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        if self.scaler.is_enabled():
            self.scaler.update()
        return _SkipStep("overflow", []) if overflowed else _SkipStep("gradient", self._ids(batches))

    def _ids(self, batches: list[Batch]) -> list[int | str]:
        """Return the ids of the images in the batches of all ranks."""
        own = [image_id for batch in batches for image_id in batch.image_ids]
        return [image_id for ids in self._process.gather(own) for image_id in ids]

    @contextmanager
    def _statistics_restored_on_error(self) -> Iterator[None]:
        """Restore BatchNorm's running statistics, which the forward pass changes, if the step is skipped."""
        buffers = running_statistics(self.model)
        before = [buffer.clone() for buffer in buffers]
        try:
            yield
        except Exception:  # memory may have run out, too, and the step is taken again
            for buffer, old in zip(buffers, before, strict=True):
                buffer.copy_(old)
            raise

    def count(self, batches: list[Batch]) -> LossCounts:
        """Return the mean number of segments per image of the whole step, which normalizes the losses."""
        own = [count_segments(batch.targets, self.model.categories.num_things) for batch in batches]
        total = self._process.sum(torch.tensor(own, dtype=torch.int64).sum(0))
        things, stuff = (total.double() / self._settings.batch_size).tolist()
        return LossCounts(things, stuff)

    def _synchronized(self, last: bool) -> AbstractContextManager[None]:
        """Return a context in which gradients are synchronized only for the last batch of a step."""
        if isinstance(self._parallel, DistributedDataParallel) and not last:
            return self._parallel.no_sync()
        return nullcontext()


class _LossesOrNaN(nn.Module):
    """A model whose losses are NaN, and so are all of its gradients, where the model raises NonFiniteError.

    The same if memory runs out in one of several processes: as the others wait for its gradients, it must take part in
    the backward pass. Not with synchronized BatchNorm, where the others wait in their forward pass.

    Attributes:
        ran_out_of_memory: Whether memory ran out since this was last set to False.
    """

    def __init__(self, model: nn.Module, process: Process, sync_batch_norm: bool) -> None:
        super().__init__()
        self.model = model
        self.ran_out_of_memory = False
        self._process = process
        self._shares_failures = process.world_size > 1 and not sync_batch_norm

    def forward(self, batch: Batch, counts: LossCounts) -> dict[str, Tensor]:
        try:
            losses: dict[str, Tensor] = self.model(batch.to(self._process.device), counts)
            return losses
        except NonFiniteError:
            pass
        except Exception as error:
            if not self._shares_failures or not is_out_of_memory(error):
                raise
            self.ran_out_of_memory = True
        # Not within `except`, where the error keeps the tensors of the failed forward pass.
        trained = [parameter.sum() for parameter in self.model.parameters() if parameter.requires_grad]
        return {NO_LOSSES: torch.stack(trained).sum() * math.nan}


class SharedOutOfMemoryError(Exception):
    """Memory ran out in one of several processes; raised on all ranks, and nothing was changed."""


class _SkipStep(NonFiniteError):
    """A loss or a gradient of this step is not finite; raised on all ranks.

    Args:
        reason: As in `SkippedStep`.
        image_ids: As in `SkippedStep`.
        losses: The losses of each batch of this process, if one of them is the reason.
    """

    def __init__(self, reason: str, image_ids: list[int | str], losses: Sequence[dict[str, Tensor]] = ()) -> None:
        super().__init__(f"a {reason} is not finite")
        self.skipped = SkippedStep(reason, image_ids)
        self.losses = list(losses)


def total_loss(losses: Mapping[str, Tensor], batches: int = 1) -> Tensor:
    """Return the share of a batch in the loss of a step with this number of batches, a scalar."""
    return torch.stack(list(losses.values())).sum().div(batches)


def distributed(model: nn.Module) -> DistributedDataParallel:
    """Wrap a model for training in several processes. Running statistics are not shared until they are saved."""
    with warnings.catch_warnings():
        # Newer versions of torch rename `broadcast_buffers`; older ones accept only this name.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(model, broadcast_buffers=False)
