"""A data loading process: which signals it ignores, and its end with the training process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.queues import Queue
from threading import Thread
from typing import Any

_CHECK_SECONDS = 1.0
_IGNORED = ("SIGINT", "SIGHUP", "SIGUSR1")


def leave_stopping_to_parent() -> None:
    """Ignore the signals that stop a run, and end when the training process ends in any way.

    Terminals, torchrun and batch systems send such signals to all processes of a run, but the training process needs
    the batch of its current step before it can save. It ends its workers itself.
    """
    for name in _IGNORED:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    if hasattr(signal, "sigtimedwait"):  # not on macOS and Windows, where SIGTERM ends a worker
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        Thread(target=_end_with, args=(parent.pid,), daemon=True).start()


def end_if_a_batch_is_lost() -> None:
    """End this process when a batch cannot be sent, because shared memory or open files ran out.

    A queue only prints such errors, and the training process would wait for the batch forever.
    """
    queue: Any = Queue  # the method is for subclasses, but torch creates the queue
    queue._on_queue_feeder_error = staticmethod(lambda error, item: _kill_this_process())


def _end_with(parent: int) -> None:
    """Kill this process when its parent has ended or has sent SIGTERM; a SIGTERM of another process is ignored."""
    while os.getppid() == parent and not _is_ended_by(parent):
        pass
    _kill_this_process()


def _kill_this_process() -> None:
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def _is_ended_by(parent: int) -> bool:
    """Wait for a moment, and return whether SIGTERM came from the parent."""
    if not hasattr(signal, "sigtimedwait"):
        time.sleep(_CHECK_SECONDS)
        return False
    received = signal.sigtimedwait({signal.SIGTERM}, _CHECK_SECONDS)
    return received is not None and received.si_pid == parent
