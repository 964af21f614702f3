"""How the process gets its memory from the system."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Numbers of glibc's `mallopt`."""
_NEVER = -1
"""As threshold: no amount of free memory is handed back. Any number would be reached by some image, 2 GB by 16 Mpx."""


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for its next tensors; whether that could be arranged.

    Every image needs the same large tensors again. By default glibc hands blocks of 32 MB and more back to the system
    as soon as they are free, and the system has to clear each page anew: 100,000 to 250,000 pages an image of 800 x
    1333 with R-50, a tenth to a quarter of the time (docs/performance.md). The peak grows by a few percent. Other C
    libraries have no such switch, and what the environment says about it (`MALLOC_...`) is left alone.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc; Windows has no None
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
