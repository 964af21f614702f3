"""Handle SIGINT and SIGTERM as requests to stop, so that a process can save its work first."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

Handler = Callable[[int, FrameType | None], None]


class StopRequest:
    """A flag that SIGINT and SIGTERM set. A second SIGINT raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        del frame
        if self and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Yield a request that SIGINT and SIGTERM set; outside the main thread, signals keep their default effect."""
    request = StopRequest()
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
    """Let `handler` receive SIGINT and SIGTERM; does nothing outside the main thread, where handlers cannot be set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
