"""Reads the layers of an image as the page does."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"


def decoded(text: str, size: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Return the segment index of every pixel, (height, width)."""
    numbers, value, shift = [], 0, 0
    for character in text:
        digit = DIGITS.index(character)
        value += (digit % 32) * 32**shift
        shift += 1
        if digit < 32:
            numbers.append(value)
            value = shift = 0
    assert shift == 0, "the last number is complete"
    return np.repeat(numbers[::2], numbers[1::2]).reshape(size)


def sides_of(path: Path) -> list[dict[str, Any]]:
    """Return the sides in a script of layers."""
    source = path.read_text(encoding="ascii")
    assert source.startswith("layersArrived(") and source.endswith(");\n")
    sides: list[dict[str, Any]] = json.loads(source.removeprefix("layersArrived(").removesuffix(");\n"))
    return sides
