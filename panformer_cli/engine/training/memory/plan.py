"""Which combination of micro-batch, precision and activation checkpointing trains fastest in a limited memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from panformer_cli.settings import TrainSettings


@dataclass(frozen=True)
class MemoryPlan:
    """Settings that change memory and time of a step, but not its images."""

    images_per_forward: int
    precision: str
    checkpoint: tuple[str, ...]

    @classmethod
    def of(cls, settings: TrainSettings) -> MemoryPlan:
        """Return the plan of some settings."""
        return cls(settings.images_per_forward, settings.precision, settings.checkpoint)

    def applied(self, settings: TrainSettings) -> TrainSettings:
        """Return the settings with this plan."""
        return replace(
            settings,
            images_per_forward=self.images_per_forward,
            precision=self.precision,  # type: ignore[arg-type]  # one of the settings' own values, or bf16
            checkpoint=self.checkpoint,
        )

    def __str__(self) -> str:
        """Return the plan as settings, such as `train.images_per_forward=1, ...`."""
        return (
            f"train.images_per_forward={self.images_per_forward}, train.precision={self.precision}, "
            f"train.checkpoint=[{', '.join(self.checkpoint)}]"
        )


@dataclass(frozen=True)
class Probe:
    """What a trial of a plan needs.

    Attributes:
        memory: Peak memory in bytes.
        seconds: Time per image.
    """

    memory: float
    seconds: float


@dataclass(frozen=True)
class Ladder:
    """The plans to try.

    Attributes:
        sizes: Images per forward pass, most first.
        precisions: Precisions.
        checkpoints: Parts to checkpoint, fewest first; each list has the parts of the one before.
    """

    sizes: Sequence[int]
    precisions: Sequence[str]
    checkpoints: Sequence[tuple[str, ...]]

    @property
    def smallest(self) -> MemoryPlan:
        """The plan that needs the least memory."""
        return MemoryPlan(self.sizes[-1], self.precisions[-1], self.checkpoints[-1])


def checkpoint_levels(settings: TrainSettings, parts: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the lists of parts to try: those of the settings, then with one more part at a time."""
    levels = [settings.checkpoint]
    for part in parts:
        if part not in levels[-1]:
            levels.append((*levels[-1], part))
    return levels


def micro_batches(share: int, most: int) -> list[int]:
    """Return the divisors of a process's share of the images up to `most`, largest first."""
    return [size for size in range(min(share, most), 0, -1) if share % size == 0]


def fastest_plan(
    ladder: Ladder, limit: float, probe: Callable[[MemoryPlan], Probe | None]
) -> tuple[MemoryPlan, Probe] | None:
    """Return the fastest plan whose peak is at most `limit` bytes, with its probe; None if there is none.

    More checkpointing is only tried if it allows more images per forward pass. So the plans without a need for it are
    tried first, and each list of parts is tried from the most images on.

    Args:
        ladder: The plans.
        limit: In bytes.
        probe: Measures a plan; None means that it needs more than `limit`.
    """
    fitting: list[tuple[MemoryPlan, Probe]] = []
    for precision in ladder.precisions:
        for checkpoint in ladder.checkpoints:
            plans = (MemoryPlan(size, precision, checkpoint) for size in ladder.sizes)
            found = next(
                ((plan, measured) for plan in plans if (measured := probe(plan)) and measured.memory <= limit), None
            )
            if found is not None:
                fitting.append(found)
                if found[0].images_per_forward == ladder.sizes[0]:
                    break
    return min(fitting, key=lambda found: found[1].seconds, default=None)


def next_smaller(plan: MemoryPlan, parts: Sequence[str]) -> MemoryPlan | None:
    """Return the plan to fall back to when memory ran out; None if nothing smaller is left.

    Checkpointing comes first, because its gradients are the same bit for bit. The parts are added one at a time.
    """
    missing = [part for part in parts if part not in plan.checkpoint]
    if missing:
        return replace(plan, checkpoint=(*plan.checkpoint, missing[0]))
    sizes = micro_batches(plan.images_per_forward, plan.images_per_forward - 1)
    return replace(plan, images_per_forward=sizes[0]) if sizes else None
