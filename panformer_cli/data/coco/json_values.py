"""Checks of JSON values, shared by the reader and the verification of panoptic JSONs."""

from __future__ import annotations

from typing import Any, TypeGuard

LARGEST = 2**53
"""Largest number allowed in an annotation: up to it floats represent every integer, and int64 holds their sums."""


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
