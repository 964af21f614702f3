"""How the engine tells of its progress without printing: `console` shows it to a person, tests keep it quiet."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Progress(Protocol):
    """A running count towards a total."""

    def advance(self, steps: int = 1, status: str = "") -> None:
        """Go on by `steps`; `status` is a few words shown beside the bar, such as the loss."""


class Reporter(Protocol):
    """Where messages and progress go."""

    def message(self, text: str) -> None:
        """One line for a person."""

    def warn(self, text: str) -> None:
        """One line about something that deserves a look."""

    def progress(self, what: str, total: int, done: int = 0) -> AbstractContextManager[Progress]:
        """A bar with the time left, for `total` steps of which `done` are behind us."""


class _SilentProgress:
    def advance(self, steps: int = 1, status: str = "") -> None:
        del steps, status


class SilentReporter:
    """Says nothing: for tests, library callers and all processes but the first."""

    def message(self, text: str) -> None:
        del text

    def warn(self, text: str) -> None:
        del text

    def progress(self, what: str, total: int, done: int = 0) -> AbstractContextManager[Progress]:
        del what, total, done
        return nullcontext(_SilentProgress())
