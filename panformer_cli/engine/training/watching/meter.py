"""Where the time of training goes: waiting for data, or computing steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Speed:
    """Mean times of steps, in seconds. Evaluations and saving are not part of them.

    Attributes:
        waiting: Waiting for the images of a step.
        computing: Computing a step, from its images to the new weights.
    """

    waiting: float
    computing: float

    @property
    def step(self) -> float:
        """Seconds from one step to the next."""
        return self.waiting + self.computing

    @property
    def waiting_share(self) -> float:
        """Share of the time that is spent waiting for images, 0 to 1."""
        return self.waiting / self.step if self.step else 0.0


class SpeedMeter:
    """Measures waiting and computing of this process.

    The first step is left out as soon as there is a second one: data loading workers start in it, and kernels are
    compiled. On a GPU a step ends with a value that is read from it, so the times are not those of launching kernels.

    Args:
        clock: Returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waited = 0.0
        self._steps: list[tuple[float, float]] = []  # since the last take
        self._is_first = True

    def waiting(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, and measure how long each takes to arrive."""
        arriving = iter(batches)
        while True:
            began = self._clock()
            try:
                item = next(arriving)
            except StopIteration:
                return
            self._waited += self._clock() - began
            yield item

    @property
    def waited(self) -> float:
        """Seconds that the current step waited for its images."""
        return self._waited

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Measure a step."""
        began = self._clock()
        yield
        self._steps.append((self._waited, self._clock() - began))
        self._waited = 0.0

    def take(self) -> Speed | None:
        """Return the mean over the steps since the last call; None if there was none."""
        speed = self.recent
        self._is_first = self._is_first and not self._steps
        self._steps = []
        return speed

    @property
    def recent(self) -> Speed | None:
        """The mean over the steps since the last `take`; None if there was none."""
        steps = (self._steps[1:] or self._steps) if self._is_first else self._steps
        if not steps:
            return None
        return Speed(sum(waiting for waiting, _ in steps) / len(steps), sum(own for _, own in steps) / len(steps))
