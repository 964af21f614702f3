"""Clocks for the parts of an optimizer step: none in ordinary training, one that adds up seconds in a profile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from panformer_cli.engine.benchmarking.meters import Meter


class StepClock(Protocol):
    """Measures the parts of an optimizer step."""

    def part(self, name: str) -> AbstractContextManager[None]:
        """Return a context that is one part of the step."""


class NoClock:
    """Measures nothing."""

    def part(self, name: str) -> AbstractContextManager[None]:
        """Return an empty context."""
        del name
        return nullcontext()


class PartClock:
    """Adds up the seconds of each part in `seconds`."""

    def __init__(self, read: Meter) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._read = read

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a part."""
        began = self._read()
        yield
        self.seconds[name] += self._read() - began
