"""Ids, values and intervals, as they are written in sentences and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that change the direction of text, and what is not valid Unicode."""
LISTED = 8
"""Default number of items listed in a message."""

PROBLEMS_LISTED = 5
"""Number of problems that an error describes; the others are only counted."""


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


def with_first(heading: str, problems: Iterable[str]) -> str:
    """Return the heading followed by the first problems, one per line, and the number of others.

    >>> with_first("2 problems:", ["a", "b"]).splitlines()
    ['2 problems:', '  a', '  b']
    """
    return "\n".join([heading, *(f"  {line}" for line in first_items(problems, PROBLEMS_LISTED))])


def counted(number: int, noun: str) -> str:
    """Return a number and a noun, in the plural unless the number is 1; nouns with a regular plural only.

    >>> counted(1, "image"), counted(0, "image"), counted(2, "class")
    ('1 image', '0 images', '2 classes')
    """
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def truncated(text: str, most: int = 120) -> str:
    """Return `text`, cut to `most` characters including three dots if it is longer.

    >>> truncated("abcdefgh", 6)
    'abc...'
    """
    return text if len(text) <= most else f"{text[: most - 3]}..."


def shown(name: object) -> str:
    """Return a name of a file for a message: what is no visible character, or changes the terminal, is escaped.

    >>> shown("a\\nb.jpg"), shown("a\\udcff.jpg"), shown("\u00e9.jpg")
    ('a\\\\nb.jpg', 'a\\\\xff.jpg', '\u00e9.jpg')
    """
    return _CONTROLS.sub(_escaped, str(name))


def without_controls(text: str) -> str:
    """Return a message of one or several lines with everything escaped that `shown` escapes, besides line ends."""
    return "\n".join(map(shown, text.split("\n")))


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{ord(character) & 0xFF:02x}"
    return character.encode("unicode_escape").decode("ascii")


def interval_text(ends: Sequence[float]) -> str:
    """Return a confidence interval in words.

    >>> interval_text([1.26, 2.5])
    '1.3 to 2.5'
    """
    return f"{ends[0]:.1f} to {ends[1]:.1f}"


def short(value: Any) -> str:
    """Return a JSON value as at most 120 printable ASCII characters."""
    return truncated(ascii(value))
