"""What a value of a JSON may be: shared by whoever reads panoptic JSONs and whoever checks them."""

from __future__ import annotations

from typing import Any, TypeGuard

LARGEST = 2**53
"""Of the numbers in an annotation: up to here a float holds every whole one, and int64 any sum of them."""


def is_image_id(value: Any) -> TypeGuard[int | str]:
    """Whether a value can be the id of an image."""
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def is_name(value: Any) -> TypeGuard[str]:
    """Whether a file may be called so in a JSON."""
    return isinstance(value, str) and bool(value) and is_text(value)


def is_text(value: str) -> bool:
    """Whether there are only whole characters: JSON can write halves of them, and names of files have foreign bytes."""
    return value.isascii() or not any("\ud800" <= mark <= "\udfff" for mark in value)


def is_count(value: Any, least: int) -> TypeGuard[int]:
    """Whether a value is a whole number of `least` or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_finite(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a number that can be counted with."""
    return isinstance(value, (int, float)) and abs(value) <= LARGEST  # false of NaN


def is_score(value: Any) -> TypeGuard[int | float | None]:
    """Whether a value can be the confidence of a segment, or there is none."""
    return value is None or (is_finite(value) and value >= 0)
