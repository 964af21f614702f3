"""What all corruptions share: pixels as numbers from 0 to 1 and back, and a blur."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray

Random = np.random.Generator

Floats = npt.NDArray[np.floating[Any]]


def as_unit(image: ImageArray) -> Floats:
    """Colours from 0..255 to 0..1, float64."""
    return image / 255.0


def as_image(unit: Floats) -> ImageArray:
    """Colours from 0..1 to 0..255; what lies outside is clipped, fractions are cut off as in the published images."""
    return (np.clip(unit, 0, 1) * 255).astype(np.uint8)


def gaussian(values: Floats, sigma: float) -> Floats:
    """A Gaussian blur: `sigma` in pixels, cut off at four of them, the border continued with its last pixels.

    values: (H, W) or (H, W, C), float32 or float64.
    """
    side = 2 * int(4 * sigma + 0.5) + 1
    return np.asarray(cv2.GaussianBlur(values, (side, side), sigma, borderType=cv2.BORDER_REPLICATE))
