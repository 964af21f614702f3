"""Ids and values out of files, in the words of a sentence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

NAMED = 8
"""Ids that a sentence names."""


def some(ids: Iterable[int]) -> str:
    """The smallest ids, and how many more there are.

    >>> some([3, 1])
    '1, 3'
    >>> some(range(10))
    '0, 1, 2, 3, 4, 5, 6, 7 and 2 more'
    """
    ordered = sorted(ids)
    more = f" and {len(ordered) - NAMED} more" if len(ordered) > NAMED else ""
    return ", ".join(map(str, ordered[:NAMED])) + more


def short(value: Any) -> str:
    """A value of a JSON in at most 120 characters, all of them printable."""
    text = ascii(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
