"""Digital corruptions: brightness, contrast, saturation and compression. None of them is random."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from panformer_cli.data.corruptions.pixels import Floats, Random, as_image, as_unit
from panformer_cli.data.structures import ImageArray


def brightness(image: ImageArray, severity: int, rng: Random) -> ImageArray:
    """Increase the value in HSV; hue and saturation are unchanged."""
    del rng
    more = (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]
    value, saturation, below = _hsv(as_unit(image))
    return as_image(np.minimum(value + more, 1) * (1 - saturation * below))


def contrast(image: ImageArray, severity: int, rng: Random) -> ImageArray:
    """Move each channel toward its mean over the image."""
    del rng
    share = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    unit = as_unit(image)
    mean = unit.mean((0, 1), keepdims=True)
    return as_image((unit - mean) * share + mean)


def saturate(image: ImageArray, severity: int, rng: Random) -> ImageArray:
    """Decrease the saturation in HSV at severities 1 and 2, increase it from 3 on; hue and value are unchanged."""
    del rng
    factor, more = ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2))[severity - 1]
    value, saturation, below = _hsv(as_unit(image))
    return as_image(value * (1 - np.clip(saturation * factor + more, 0, 1) * below))


def jpeg_compression(image: ImageArray, severity: int, rng: Random) -> ImageArray:
    """Compress as a JPEG of low quality."""
    del rng
    quality = (25, 18, 15, 10, 7)[severity - 1]
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    with Image.open(file) as decoded:
        return np.array(decoded)


def _hsv(unit: Floats) -> tuple[Floats, Floats, Floats]:
    """Return value and saturation of HSV, (H, W, 1), and instead of the hue `below`, (H, W, 3) in 0..1.

    `below` is the distance of each channel from the value, relative to that of the lowest channel, so that `unit` is
    value * (1 - saturation * below). Gray has the hue 0, red, so high severities of `saturate` tint it, as in the
    reference implementation.
    """
    value = unit.max(2, keepdims=True)
    spread = value - unit.min(2, keepdims=True)
    saturation = np.divide(spread, value, out=np.zeros_like(value), where=value > 0)
    red = np.broadcast_to(np.array([0.0, 1.0, 1.0]), unit.shape)
    return value, saturation, np.divide(value - unit, spread, out=red.copy(), where=spread > 0)
