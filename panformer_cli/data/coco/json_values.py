"""Checks of JSON values, shared by the reader and the verification of panoptic JSONs."""

from __future__ import annotations

from typing import Any, TypeGuard

LARGEST = 2**53
"""Largest number allowed in an annotation: up to it floats represent every integer, and int64 holds their sums."""


_WHOLE = ("id", "image_id", "category_id", "isthing", "iscrowd", "height", "width")
"""Keys of whole numbers, which some tools write as `3.0`."""


def whole_number(value: Any) -> Any:
    """Return a whole number with a fraction, such as 3.0, as an integer, and everything else unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def with_whole_numbers(row: Any) -> Any:
    """Return a row of a panoptic JSON whose ids, flags and sizes are integers where it has numbers such as 3.0.

    >>> with_whole_numbers({"image_id": 3.0, "segments_info": [{"id": 7.0, "score": 1.0}]})
    {'image_id': 3, 'segments_info': [{'id': 7, 'score': 1.0}]}
    """
    if not isinstance(row, dict):
        return row
    for key in _WHOLE:
        if type(row.get(key)) is float:
            row[key] = whole_number(row[key])
    segments = row.get("segments_info")
    for segment in segments if isinstance(segments, list) else ():
        with_whole_numbers(segment)
    return row


def is_image_id(value: Any) -> TypeGuard[int | str]:
    """Return whether a value can be an image id."""
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def is_name(value: Any) -> TypeGuard[str]:
    """Return whether a value can be a file name."""
    return isinstance(value, str) and bool(value) and is_text(value)


def is_text(value: str) -> bool:
    """Return whether a string is valid Unicode; JSON and file names can contain lone surrogates."""
    return value.isascii() or not any("\ud800" <= mark <= "\udfff" for mark in value)


def is_count(value: Any, least: int) -> TypeGuard[int]:
    """Return whether a value is an integer of `least` or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_finite(value: Any) -> TypeGuard[int | float]:
    """Return whether a value is a number of at most `LARGEST`."""
    return isinstance(value, (int, float)) and abs(value) <= LARGEST  # false of NaN


def is_score(value: Any) -> TypeGuard[int | float | None]:
    """Return whether a value can be the score of a segment; None means no score."""
    return value is None or (is_finite(value) and value >= 0)
