"""Interface through which the engine reports messages and progress; `console` prints them, tests ignore them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

MEGABYTE = 1_000_000


class Progress(Protocol):
    """A progress bar."""

    def advance(self, steps: int = 1, status: str = "") -> None:
        """Advance by `steps`; `status` is a short text shown beside the bar, such as the loss."""


class Reporter(Protocol):
    """Receives messages and progress."""

    def message(self, text: str) -> None:
        """Report one line of text."""

    def warn(self, text: str) -> None:
        """Report a warning of one line."""

    def progress(self, what: str, total: int, done: int = 0) -> AbstractContextManager[Progress]:
        """Return a progress bar of `total` steps, of which `done` are already complete."""


class _SilentProgress:
    def advance(self, steps: int = 1, status: str = "") -> None:
        del steps, status


class SilentReporter:
    """Reports nothing: for tests, library callers and ranks other than 0."""

    def message(self, text: str) -> None:
        del text

    def warn(self, text: str) -> None:
        del text

    def progress(self, what: str, total: int, done: int = 0) -> AbstractContextManager[Progress]:
        del what, total, done
        return nullcontext(_SilentProgress())


class MegabyteBar:
    """A progress bar that counts bytes and shows megabytes."""

    def __init__(self, bar: Progress, done: int) -> None:
        self._bar, self._done = bar, done

    def advance(self, count: int) -> None:
        """Advance by `count` bytes."""
        before, self._done = self._done, self._done + count
        self._bar.advance(megabytes(self._done) - megabytes(before))


@contextmanager
def megabyte_bar(what: str, total: int, done: int, reporter: Reporter) -> Iterator[MegabyteBar]:
    """Show a progress bar of `total` bytes, of which `done` are complete; no bar if `total` is 0 (unknown)."""
    shown = reporter if total else SilentReporter()
    with shown.progress(what, megabytes(total), megabytes(done)) as bar:
        yield MegabyteBar(bar, done)


def megabytes(count: int) -> int:
    """Return `count` bytes in megabytes, rounded up so that the last byte completes a bar."""
    return -(-count // MEGABYTE)
