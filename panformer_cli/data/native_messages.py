"""Hides what libpng, libjpeg and libtiff print to stderr about odd images, which their callers cannot turn off."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_STDERR = 2
"""The file descriptor of stderr: native libraries do not know `sys.stderr`."""

_OF_DECODERS = re.compile(
    rb"(libpng (error|warning): |Corrupt JPEG data: |Premature end of JPEG file|Invalid SOS parameters"
    rb"|Inconsistent progression sequence|Unknown Adobe color transform code|Warning: unknown JFIF revision"
    rb"|Application transferred too |(tempfile\.tif|_?TIFF\w+|LZW\w+|ZIP\w+|Fax\w+|JPEG\w+): )[^\n]*\n"
)


class _Collector:
    """Replaces the file descriptor of stderr while at least one thread decodes; other output is printed afterwards."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._lock = Lock()
        self._threads = 0
        self._collected = -1  # file that is written instead of stderr
        self._printed = 0  # bytes of it that were already examined
        self._stderr = -1  # the replaced file descriptor

    def begin(self) -> None:
        with self._lock:
            if self._threads == 0:
                if self._collected < 0:
                    self._collected = _anonymous_file()
                self._stderr = os.dup(_STDERR)
                os.dup2(self._collected, _STDERR)
            self._threads += 1

    def end(self) -> None:
        with self._lock:
            self._threads -= 1
            is_last = self._threads == 0
            if is_last:
                os.dup2(self._stderr, _STDERR)
            if (size := os.fstat(self._collected).st_size) > self._printed:
                self._print_rest(size)
            if is_last:
                os.close(self._stderr)
                self._stderr = -1

    def restore(self) -> None:
        """Restore stderr in a forked process: the threads that were decoding, or held the lock, do not exist there."""
        if self._stderr >= 0:
            os.dup2(self._stderr, _STDERR)
        self._reset()

    def _print_rest(self, size: int) -> None:
        os.lseek(self._collected, self._printed, os.SEEK_SET)
        text = os.read(self._collected, size - self._printed)
        self._printed = size
        if rest := _OF_DECODERS.sub(b"", text):
            os.write(self._stderr, rest)
        if self._threads == 0:
            os.ftruncate(self._collected, 0)
            os.lseek(self._collected, 0, os.SEEK_SET)
            self._printed = 0


def _anonymous_file() -> int:
    """Return the descriptor of a file without a name, in memory if the system supports it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("messages")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


_COLLECTOR = _Collector()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_COLLECTOR.restore)


@contextmanager
def native_messages_hidden() -> Iterator[None]:
    """Hide the messages of image decoders in this block; everything else that is printed to stderr appears after it."""
    try:
        _COLLECTOR.begin()
    except OSError:  # no stderr, as in a service, or no temporary file
        yield
        return
    try:
        yield
    finally:
        _COLLECTOR.end()
