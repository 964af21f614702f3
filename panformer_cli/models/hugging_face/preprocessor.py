"""The numbers of a preprocessor_config.json that describe the network's input; everything else in it is ignored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panformer_cli.errors import CheckpointError
from panformer_cli.models.hugging_face.settings import IMAGENET_MEAN, IMAGENET_STD
from panformer_cli.wording import short

Colors = tuple[float, float, float]
NOISE = 1e-6
"""Largest difference from ImageNet's numbers that is rounding."""
LARGEST = 10
"""Limit of the absolute value of a mean or deviation. Those for colors of 0 to 255 are above it."""


@dataclass(frozen=True)
class Preprocessing:
    """The input that a network expects.

    Attributes:
        mean: of the channels R, G, B, for values of 0 to 1.
        std: standard deviation of the channels.
        sides: short and long side of the resized image, in pixels; None if the file does not have both.
        thing_labels: labels that are things; None if the file does not say.
    """

    mean: Colors = IMAGENET_MEAN
    std: Colors = IMAGENET_STD
    sides: tuple[int, int] | None = None
    thing_labels: frozenset[int] | None = None


def preprocessing_of(content: Mapping[str, Any], path: Path) -> Preprocessing:
    """Return the numbers in the content of a preprocessor_config.json.

    A size with height and width is ignored: the original projects keep the aspect ratio.

    Raises:
        CheckpointError: a number cannot be used.
    """
    factor = content.get("rescale_factor", 1 / 255)
    if not _is_number(factor) or not math.isclose(factor, 1 / 255, rel_tol=NOISE):
        raise CheckpointError(f"{path}: rescale_factor is {short(factor)}; expected 1/255, the only supported one")
    for key in ("do_rescale", "do_normalize"):
        if content.get(key, True) is False:
            raise CheckpointError(f"{path}: {key} is false; only networks with normalized input are supported")
    mean, std = _colors(content, "image_mean", IMAGENET_MEAN, path), _colors(content, "image_std", IMAGENET_STD, path)
    if min(std) <= 0:
        raise CheckpointError(f"{path}: image_std is {list(std)}; expected three numbers above 0")
    metadata = content.get("metadata")
    things = metadata.get("thing_ids") if isinstance(metadata, Mapping) else None
    labels = frozenset(things) if isinstance(things, list) and all(type(label) is int for label in things) else None
    return Preprocessing(mean, std, _sides(content, path), labels)


def _colors(content: Mapping[str, Any], key: str, usual: Colors, path: Path) -> Colors:
    value = content.get(key, usual)
    is_row = isinstance(value, (list, tuple)) and len(value) == 3 and all(map(_is_number, value))
    if not is_row or max(map(abs, value)) > LARGEST:
        raise CheckpointError(
            f"{path}: {key} is {short(value)}; expected three numbers, for colors of 0 to 1, of at most {LARGEST}"
        )
    red, green, blue = map(float, value)
    is_usual = max(abs(one - other) for one, other in zip((red, green, blue), usual, strict=True)) <= NOISE
    return usual if is_usual else (red, green, blue)


def _sides(content: Mapping[str, Any], path: Path) -> tuple[int, int] | None:
    size = content.get("size")
    old = {"shortest_edge": size, "longest_edge": content.get("max_size")}
    given = size if isinstance(size, Mapping) else old
    short_side, long_side = given.get("shortest_edge"), given.get("longest_edge", content.get("max_size"))
    if short_side is None or long_side is None:
        return None
    if not (type(short_side) is int and type(long_side) is int and 0 < short_side <= long_side):
        raise CheckpointError(
            f"{path}: the sides are {short(short_side)} and {short(long_side)}; expected a short and a long side in "
            "pixels"
        )
    return short_side, long_side


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
