"""Ids and values out of files, in the words of a sentence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

LISTED = 8
"""Default number of items listed in a message."""


def first_items(items: Iterable[object], most: int = LISTED) -> list[str]:
    """Return the first `most` items as text, followed by how many more there are, if any.

    >>> first_items("ab", 2)
    ['a', 'b']
    >>> first_items("abcd", 2)
    ['a', 'b', 'and 2 more']
    """
    known = list(items)
    more = len(known) - most
    return [*map(str, known[:most]), *([f"and {more} more"] if more > 0 else [])]


def listing(items: Iterable[object], most: int = LISTED, separator: str = ", ") -> str:
    """Return `first_items` as one text.

    >>> listing(range(10), 3)
    '0, 1, 2, and 7 more'
    """
    return separator.join(first_items(items, most))


def truncated(text: str, most: int = 120) -> str:
    """Return `text`, cut to `most` characters including three dots if it is longer.

    >>> truncated("abcdefgh", 6)
    'abc...'
    """
    return text if len(text) <= most else f"{text[: most - 3]}..."


def short(value: Any) -> str:
    """Return a JSON value as at most 120 printable ASCII characters."""
    return truncated(ascii(value))
