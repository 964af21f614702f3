"""Whether a timm model can be a backbone, found out without allocating a weight, and what to use instead."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from typing import Any

import torch

from panformer_cli.errors import PanformerError
from panformer_cli.models.backbones.backbone import STRIDES
from panformer_cli.models.backbones.known import BACKBONES, TIMM
from panformer_cli.models.backbones.timm_import import timm

PROBE_SIZE = (75, 150)
"""Height and width of a trial image: no multiple of anything, not square, and still different when padded."""
MULTIPLES = (1, 4, 8, 16, 32, 64)
"""What images may be padded to a multiple of, pixels; the smallest that works is used."""
OPTIONS: tuple[Mapping[str, Any], ...] = ({}, {"strict_img_size": False})
"""Options of timm that may make a model accept images of any size."""
EXAMPLES = (
    "convnext_tiny.fb_in22k",
    "tf_efficientnet_lite0.in1k",
    "regnety_016.tv2_in1k",
    "swinv2_cr_tiny_ns_224.sw_in1k",
)
_MOST_GUESSES = 3


@dataclass(frozen=True)
class FeatureLayout:
    """How to get C3, C4 and C5 from a timm model.

    Attributes:
        indices: timm's numbers of the feature maps.
        channels_last: the feature maps are (B, H, W, channels).
        multiple: images are padded to a multiple of this, pixels.
        options: arguments of `timm.create_model`.
    """

    indices: tuple[int, ...]
    channels_last: bool = False
    multiple: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


class _Unsuitable(Exception):
    """Its text completes the sentence "the model ..."."""


def check_backbone_name(name: str) -> None:
    """Raise PanformerError if `name`, as in `model.backbone`, is no backbone; it takes about a second."""
    if name not in BACKBONES:
        feature_layout(name)


def feature_layout(name: str) -> FeatureLayout:
    """Return the layout of `timm/<model>`.

    Raises:
        PanformerError: timm has no such model, it has no feature maps at strides 8, 16 and 32, or it does not accept
            images of any size. The message names similar models that can be used.
    """
    model = name.removeprefix(TIMM)
    try:
        return _layout(model)
    except _Unsuitable as error:
        raise PanformerError(f"model.backbone is {name}: the model {error}; {_advice(model)}") from error


def _layout(model: str) -> FeatureLayout:
    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        raise _Unsuitable(f"is unknown to timm {timm.__version__}")
    if tag and not timm.is_model_pretrained(model):
        raise _Unsuitable(f"has no weights {tag!r} in timm {timm.__version__}")
    return _layout_of_architecture(architecture)


@cache
def _layout_of_architecture(architecture: str) -> FeatureLayout:
    other_sizes = ""  # of its maps, for an image that is not padded
    for options in OPTIONS:
        try:
            with torch.device("meta"):
                body: Any = timm.create_model(architecture, features_only=True, **options).eval()
        except Exception as error:  # each of timm's models raises its own
            if options:
                continue  # the model does not know the option
            raise _Unsuitable("cannot be used by timm as a feature extractor") from error
        positions = _positions(body.feature_info.reduction())
        for multiple in MULTIPLES:
            try:
                channels_last = _probe(body, positions, multiple)
            except _Unsuitable as error:
                other_sizes = other_sizes or str(error)
                continue
            if channels_last is not None:
                indices = tuple(body.feature_info.out_indices[position] for position in positions)
                return FeatureLayout(indices, channels_last, multiple, options)
    raise _Unsuitable(other_sizes or "does not accept images of any height and width")


def _positions(strides: list[int]) -> list[int]:
    """Return where `STRIDES` are among the strides of all feature maps."""
    if not set(STRIDES) <= set(strides):
        found = ", ".join(map(str, strides))
        raise _Unsuitable(f"has feature maps at strides {found}, but {', '.join(map(str, STRIDES))} are needed")
    return [strides.index(stride) for stride in STRIDES]


def _probe(body: Any, positions: list[int], multiple: int) -> bool | None:
    """Return whether channels come last; None if the model fails on images that are padded to this multiple.

    Raises:
        _Unsuitable: The maps do not have the sizes of the image divided by the strides.
    """
    height, width = (math.ceil(side / multiple) * multiple for side in PROBE_SIZE)
    try:
        features = body(torch.zeros(1, 3, height, width, device="meta"))
    except Exception:  # each of timm's models raises its own
        return None
    channels: list[int] = body.feature_info.channels()
    sizes = [(math.ceil(height / stride), math.ceil(width / stride)) for stride in STRIDES]
    shapes = [tuple(features[position].shape[1:]) for position in positions]
    if shapes == [(channels[position], *size) for position, size in zip(positions, sizes, strict=True)]:
        return False
    if shapes == [(*size, channels[position]) for position, size in zip(positions, sizes, strict=True)]:
        return True
    found = ", ".join("x".join(map(str, shape)) for shape in shapes)
    expected = ", ".join(f"{rows}x{columns}" for rows, columns in sizes)
    raise _Unsuitable(
        f"has feature maps of the shapes {found} for an image of {height}x{width} pixels, but the sizes {expected} "
        f"are needed at strides {', '.join(map(str, STRIDES))}"
    )


def _advice(model: str) -> str:
    """Return what to use instead: similar models that are suitable, or well-known ones."""
    known = timm.list_pretrained() if "." in model else timm.list_models()
    similar = [name for name in get_close_matches(model, known, n=_MOST_GUESSES) if _is_suitable(name)]
    if similar:
        return f"did you mean {' or '.join(TIMM + name for name in similar)}?"
    return f"use another one, such as {', '.join(TIMM + name for name in EXAMPLES)}"


def _is_suitable(model: str) -> bool:
    try:
        _layout(model)
    except _Unsuitable:
        return False
    return True
