"""JSON with a limit on nesting that every Python version, and every step after reading, can handle."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

ObjectOf = Callable[[list[tuple[str, Any]]], Any]
"""Makes the value of an object from its keys and values, in the order of the text, with repeated keys."""

DEEPEST = 100
"""Maximum nesting of lists and objects. Data sets have fewer than ten levels."""

TOO_DEEP = f"lists and objects are nested more than {DEEPEST} levels deep"


def parse(text: str | bytes, object_of: ObjectOf | None = None) -> Any:
    """Return the value of a JSON text. Objects are dictionaries, or what `object_of` returns.

    The nesting that `json` itself can read depends on the Python version: up to 3.11 on the recursion limit, later on
    the stack size. A value that it reads may be nested too deeply for pickling, copying or printing.

    Raises:
        ValueError: not JSON, or nested too deeply.
    """
    try:
        value = json.loads(text, object_pairs_hook=object_of)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    if is_too_deep(value):
        raise ValueError(TOO_DEEP)
    return value


def is_too_deep(value: Any) -> bool:
    """Return whether lists and objects in `value` are nested more than `DEEPEST` levels deep."""
    level = [value] if isinstance(value, (list, dict)) else []
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _items(outer) if isinstance(inner, (list, dict))]
        if not level:
            return False
    return True


def _items(container: list[Any] | dict[str, Any]) -> Any:
    return container.values() if isinstance(container, dict) else container
