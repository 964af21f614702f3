"""A limit on the time of a job, such as that of a batch system."""

from __future__ import annotations

import time
from collections.abc import Callable

UNKNOWN_SAVE = 60.0
"""Seconds reserved for saving until a checkpoint has been saved, but at most 5 % of the limit."""


class TimeLimit:
    """Says when to stop, so that there is time to finish the current step and save.

    It is asked between steps and between the images of an evaluation. The longest time between two calls so far, and
    twice the longest time of a save, are reserved at the end. Only rank 0 uses it: clocks of machines differ.

    Args:
        seconds: Time of the job.
        clock: Returns the time, in seconds.
        spent: How many seconds of the job have passed when this is created.

    Attributes:
        save_seconds: Returns the longest time of a save so far, in seconds; 0 if there was none.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic, spent: float = 0.0) -> None:
        self.save_seconds: Callable[[], float] = lambda: 0.0
        self._seconds, self._clock = seconds, clock
        self._start = clock() - spent
        self._asked: float | None = None
        self._longest = 0.0

    def __call__(self) -> bool:
        """Return whether it is time to save and stop."""
        now = self._clock()
        if self._asked is not None:
            self._longest = max(self._longest, now - self._asked)
        self._asked = now
        save = self.save_seconds() or min(UNKNOWN_SAVE, 0.05 * self._seconds)
        return now - self._start + self._longest + 2 * save >= self._seconds
