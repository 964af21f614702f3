"""Helpers of the corruptions: conversion of pixels to 0..1 and back, and a Gaussian blur."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray

Random = np.random.Generator

Floats = npt.NDArray[np.floating[Any]]


def as_unit(image: ImageArray) -> Floats:
    """Return colors in 0..255 as float64 in 0..1."""
    return image / 255.0


def as_image(unit: Floats) -> ImageArray:
    """Return colors in 0..1 as uint8, clipped and truncated as in the reference implementation."""
    return (np.clip(unit, 0, 1) * 255).astype(np.uint8)


def gaussian(values: Floats, sigma: float) -> Floats:
    """Return `values` after a Gaussian blur, truncated at four sigma, with replicated borders.

    Args:
        values: (H, W) or (H, W, C), float32 or float64.
        sigma: in pixels.
    """
    side = 2 * int(4 * sigma + 0.5) + 1
    return np.asarray(cv2.GaussianBlur(values, (side, side), sigma, borderType=cv2.BORDER_REPLICATE))
