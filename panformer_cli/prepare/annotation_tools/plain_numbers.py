"""Numbers in the text of annotations.

Python's `float` and `int` also accept underscores and digits of other scripts, which no annotation tool writes.
"""

from __future__ import annotations


def decimal(text: str) -> float:
    """Return a number such as `1.5`, `-2e-3` or `nan`; raises a ValueError for anything else.

    >>> decimal(" 2.50")
    2.5
    """
    return float(_plain(text))


def whole(text: str) -> int:
    """Return a whole number such as `3` or `3.0`; raises a ValueError for anything else.

    >>> whole("3"), whole("3.0")
    (3, 3)
    """
    try:
        return int(_plain(text))
    except ValueError:
        number = decimal(text)
        if not number.is_integer():
            raise
        return int(number)


def _plain(text: str) -> str:
    if "_" in text or not text.isascii():
        raise ValueError(f"{text!r} is no number")
    return text
