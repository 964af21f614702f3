"""Recognizing errors that mean that memory ran out, whatever class they have."""

from __future__ import annotations

import errno

import torch

_PHRASES = (
    "out of memory",  # CUDA, also as torch.AcceleratorError of a later call
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "can't allocate memory",  # torch's CPU allocator
    "not enough memory",  # the same on Windows
)
"""Parts of the messages of a RuntimeError, in lower case."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the error, or one that it was raised from, means that the memory of a device ran out."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if _says_so(current):
            return True
        seen.add(id(current))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return False


def _says_so(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _PHRASES)
