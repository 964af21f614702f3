"""What a run does when memory runs out in its first epoch: take the step again with settings that need less.

Several processes do this together: if memory runs out in a forward pass on one rank, all ranks see it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from panformer_cli.data.structures import Batch
from panformer_cli.engine.distributed.out_of_memory import is_out_of_memory
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.training.memory.plan import MemoryPlan, next_smaller
from panformer_cli.engine.training.memory.probe import release_memory
from panformer_cli.engine.training.step import OptimizerStep, SharedOutOfMemoryError, StepResult
from panformer_cli.errors import PanformerError
from panformer_cli.models.layers.recompute import recompute_in_backward
from panformer_cli.recipe import Recipe

ADVICE = (
    "resume with other settings (--set): parts in train.checkpoint, a smaller train.images_per_forward, "
    "train.precision=bf16 or smaller images (data.train_short_sides, data.long_side)"
)


class StepOutOfMemoryError(PanformerError):
    """Memory ran out in a step, and nothing was changed; raised on all ranks."""


class RankOutOfMemoryError(PanformerError):
    """Memory ran out in a step of this rank, for which the others wait; nothing was changed."""


class MemoryFallback:
    """Takes optimizer steps, and adapts the recipe when memory runs out. Every rank calls the same methods.

    Args:
        process: This process.
        step: Takes the steps.
        recipe: All settings.
        changed: Called with the new recipe and the plan after each change.
    """

    def __init__(
        self, process: Process, step: OptimizerStep, recipe: Recipe, changed: Callable[[Recipe, MemoryPlan], None]
    ) -> None:
        self._process, self._step, self._recipe, self._changed = process, step, recipe, changed

    def take(self, batches: list[Batch], factor: float, may_change: bool) -> StepResult:
        """Take a step; arguments as for `OptimizerStep.take`.

        Args:
            batches: This process's share of the images.
            factor: Factor on all learning rates.
            may_change: Whether the settings may change, so that the step is taken again.

        Raises:
            StepOutOfMemoryError: Memory ran out, and the settings may not change, or nothing can be changed.
            RankOutOfMemoryError: Memory ran out on this one of several ranks in its backward pass or later.
        """
        while True:
            size = self._recipe.train.images_per_forward
            try:
                return self._step.take([part for batch in batches for part in batch.split(size)], factor)
            except Exception as error:
                is_shared = isinstance(error, SharedOutOfMemoryError)
                if not is_shared and not is_out_of_memory(error):
                    raise
                self._step.forget_failed_step()
                if not is_shared and self._process.world_size > 1:  # the other ranks wait for the gradients of this one
                    raise RankOutOfMemoryError(
                        f"memory ran out in one of several processes while the others waited for it; {ADVICE}"
                    ) from error
                if not may_change:
                    raise StepOutOfMemoryError(f"memory ran out; {ADVICE}") from error
            self._use_less()  # not within `except`, where the error keeps the tensors of the failed step

    def _use_less(self) -> None:
        """Checkpoint one more part, or else use fewer images per forward pass, from now on."""
        train, model = self._recipe.train, self._step.model
        plan = next_smaller(MemoryPlan.of(train), self._recipe.model.parts)
        if plan is None:
            raise StepOutOfMemoryError(
                "memory ran out, although all parts of the model are checkpointed and a forward pass has a single "
                "image; use smaller images (data.long_side, data.train_short_sides), train.precision=bf16 or a "
                "smaller model"
            )
        for part in plan.checkpoint:
            if part not in train.checkpoint:
                recompute_in_backward(model.parts()[part])
        release_memory(self._process.device)
        self._recipe = replace(self._recipe, train=plan.applied(train))
        self._changed(self._recipe, plan)
