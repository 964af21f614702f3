"""Handle the signals that stop a run as requests, so that a process can save its work first."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from panformer_cli.engine.distributed.runtime import Process

Handler = Callable[[int, FrameType | None], None]

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)
"""Ctrl-C; the end of a job; a closed terminal; the warning of a batch system. Windows has only the first two."""
SAME_SECONDS = 0.5
"""SIGINTs within this time are one request: terminals and launchers may send the same one twice."""


class StopRequest:
    """A flag that the stop signals set. A second SIGINT raises KeyboardInterrupt. Handlers do no other work.

    Args:
        limit: Returns whether to stop without a signal; None to stop only at a signal.
    """

    def __init__(self, limit: Callable[[], bool] | None = None) -> None:
        self.signal: int | None = None
        self._limit = limit
        self._interrupted: float | None = None

    def __bool__(self) -> bool:
        return self.signal is not None or (self._limit is not None and self._limit())

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        del frame
        self.signal = number
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._interrupted is None:
                self._interrupted = now
            elif now - self._interrupted >= SAME_SECONDS:
                raise KeyboardInterrupt


class SharedStop:
    """Whether any rank was asked to stop, for work that the ranks do at different speeds.

    Args:
        request: The request of this rank.
        process: This process.
        what: The work, a name that is not used again in this run.
    """

    def __init__(self, request: StopRequest, process: Process, what: str) -> None:
        self._request, self._process, self._event = request, process, f"stop {what}"

    def __call__(self) -> bool:
        if self._request:
            self._process.announce(self._event)
            return True
        return self._process.is_announced(self._event)


@contextlib.contextmanager
def stop_on_signals(limit: Callable[[], bool] | None = None) -> Iterator[StopRequest]:
    """Yield a request that the stop signals and `limit` set; outside the main thread, signals keep their effect."""
    request = StopRequest(limit)
    try:
        with signals_to(request.handle):
            yield request
    except RuntimeError:
        # A collective operation fails like this if the signal has already ended another rank; it ends this one, too.
        if request.signal is not None:
            signal.raise_signal(request.signal)
        raise


@contextlib.contextmanager
def signals_to(handler: Handler) -> Iterator[None]:
    """Let `handler` receive the stop signals; does nothing outside the main thread, where handlers cannot be set.

    SIGHUP stays ignored if it is, as in programs started by nohup.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in STOP_SIGNALS if not _is_ignored_hangup(number)]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _is_ignored_hangup(number: int) -> bool:
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN
