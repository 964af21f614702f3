"""Loops compiled by numba: for what array arithmetic cannot do in one pass."""

# mypy: ignore-errors
# What numba compiles looks like Python, but its types are numba's.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: machine code when first called. Threads run it side by side.

    The code is kept in a folder of numba's for the next process, where there is one that can be written to.

    options: of `numba.njit`.
    """
    options = {"nogil": True, **options}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:
            return njit(**options)(function)

    return decorate
