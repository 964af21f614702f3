"""Loops compiled by numba, for work that array operations cannot do in one pass."""

# mypy: ignore-errors
# Functions compiled by numba have numba's types, not Python's.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that compiles a function when it is first called; it runs without the GIL.

    The compiled code is cached for later processes if numba has a writable cache folder.

    Args:
        options: passed to `numba.njit`.
    """
    options = {"nogil": True, **options}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:
            return njit(**options)(function)

    return decorate
