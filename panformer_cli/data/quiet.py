"""Ignore the warnings of Pillow, in any number of threads."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from threading import Lock


class NoWarnings:
    """Ignores warnings while at least one thread is inside.

    `warnings.catch_warnings` alone is not safe in threads: each restores the filters that it found, so the last one to
    leave could leave warnings ignored for the rest of the program.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._filters = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.close()


no_warnings = NoWarnings()
