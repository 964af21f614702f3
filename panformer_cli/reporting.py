"""How the engine tells of its progress without printing: `console` shows it to a person, tests keep it quiet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

MEGABYTE = 1_000_000


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


class MegabyteBar:
    """A bar that counts bytes and shows megabytes."""

    def __init__(self, bar: Progress, done: int) -> None:
        self._bar, self._done = bar, done

    def advance(self, count: int) -> None:
        """Advance by `count` bytes."""
        before, self._done = self._done, self._done + count
        self._bar.advance(megabytes(self._done) - megabytes(before))


@contextmanager
def megabyte_bar(what: str, total: int, done: int, reporter: Reporter) -> Iterator[MegabyteBar]:
    """Show a bar for `total` bytes, of which `done` are done; no bar if the total is 0, which means unknown."""
    shown = reporter if total else SilentReporter()
    with shown.progress(what, megabytes(total), megabytes(done)) as bar:
        yield MegabyteBar(bar, done)


def megabytes(count: int) -> int:
    """Return the megabytes of `count` bytes, rounded up so that the last byte completes a bar."""
    return -(-count // MEGABYTE)
