"""Settings of the C library's memory allocator."""

from __future__ import annotations

import contextlib
import ctypes
import os

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt`."""
_NEVER = -1
"""Threshold that is never reached. Any other value is exceeded by some image: 2 GB by one of 16 megapixels."""


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next tensors; return whether that was possible.

    Every image needs the same large tensors again. By default glibc returns blocks of 32 MB and more to the system
    when they are freed, and the system must clear each page before it is used again: 100,000 to 250,000 pages per
    800 x 1333 image with R-50, a tenth to a quarter of the time (docs/performance.md). Keeping them raises the peak
    by a few percent. Other C libraries have no such setting. `MALLOC_...` environment variables have priority.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc; Windows has no None
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))


def return_freed_memory() -> None:
    """Return the freed memory of this process to the system now. Only glibc can."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
