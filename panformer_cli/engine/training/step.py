"""One optimizer step: losses of all images of all processes, gradients, clipping, AdamW."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from panformer_cli.data.structures import Batch
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.precision import autocast
from panformer_cli.engine.training.optimizer import build_optimizer
from panformer_cli.engine.training.schedule import set_learning_rate
from panformer_cli.engine.training.step_clock import NoClock, StepClock
from panformer_cli.errors import PanformerError
from panformer_cli.models.base import LossCounts, PanopticModel, count_segments
from panformer_cli.settings import TrainSettings

DIVERGED = (
    "training diverged: a gradient is no longer finite; the last checkpoint is from before it; resume from there with "
    "--resume and a smaller learning rate (--set train.lr=...)"
)


@dataclass(frozen=True)
class StepResult:
    """What a step reports.

    Attributes:
        losses: The losses of each batch of this process by name, detached, on their device.
        gradient_norm: L2 norm of the gradient of all parameters before clipping, a scalar on the device.
    """

    losses: list[dict[str, Tensor]]
    gradient_norm: Tensor


class OptimizerStep:
    """Takes optimizer steps with a model. Every rank calls the same methods.

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
        self.clock: StepClock = NoClock()
        self._process, self._settings = process, settings
        self._parallel = distributed(model) if process.world_size > 1 else model

    def take(self, batches: list[Batch], factor: float) -> StepResult:
        """Take one optimizer step.

        Args:
            batches: This process's share of the images, one batch per forward pass.
            factor: Factor on all learning rates.

        Raises:
            PanformerError: A gradient is not finite.
        """
        self._parallel.train()
        set_learning_rate(self.optimizer, factor)
        losses = self.accumulate(batches, self.count(batches))
        with self.clock.part("clipping"):
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._settings.clip_norm)
        if not torch.isfinite(norm):  # the same on all ranks, because gradients are averaged
            raise PanformerError(DIVERGED)
        with self.clock.part("optimizer"):
            self.optimizer.step()
        return StepResult(losses, norm)

    def accumulate(self, batches: list[Batch], counts: LossCounts) -> list[dict[str, Tensor]]:
        """Set the gradients to those of all batches of all processes, and return this process's losses, detached."""
        self.optimizer.zero_grad()
        detached = []
        for index, batch in enumerate(batches):
            with self._synchronized(last=index == len(batches) - 1):
                with self.clock.part("forward"):
                    losses = self._losses(batch.to(self._process.device), counts)
                with self.clock.part("backward"):
                    torch.stack(list(losses.values())).sum().div(len(batches)).backward()
            detached.append({name: value.detach() for name, value in losses.items()})
        return detached

    def _losses(self, batch: Batch, counts: LossCounts) -> dict[str, Tensor]:
        with autocast(self._settings.precision, self._process.device):
            losses: dict[str, Tensor] = self._parallel(batch, counts)
        return losses

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


def distributed(model: nn.Module) -> DistributedDataParallel:
    """Wrap a model for training in several processes. Running statistics are not shared until they are saved."""
    with warnings.catch_warnings():
        # Newer versions of torch rename `broadcast_buffers`; older ones accept only this name.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(model, broadcast_buffers=False)
