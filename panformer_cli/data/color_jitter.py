"""Random changes of brightness, contrast, saturation and hue, with torchvision's definitions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray

_Values = npt.NDArray[np.float32]


class ColorChange(NamedTuple):
    """A change of colors; the defaults change nothing.

    Attributes:
        brightness: factor on all values, 0 or more.
        contrast: factor on the difference from the mean gray value of the image, 0 or more.
        saturation: factor on the difference from the gray value of the pixel, 0 or more.
        hue: shift of the hue, -0.5..0.5 of the color circle.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


def random_change(strengths: tuple[float, float, float, float], rng: np.random.Generator) -> ColorChange:
    """Return factors drawn from [1 - strength, 1 + strength], and a hue shift from [-strength, strength]."""
    *others, hue = strengths
    brightness, contrast, saturation = (float(rng.uniform(1 - strength, 1 + strength)) for strength in others)
    return ColorChange(brightness, contrast, saturation, float(rng.uniform(-hue, hue)))


def change_colors(image: ImageArray, change: ColorChange) -> ImageArray:
    """Return (H, W, 3) uint8 RGB with the changes of `change` in the order of its fields, limited to 0..255 each."""
    if change == ColorChange():
        return image
    values = image.astype(np.float32)
    if change.brightness != 1:
        values = _limited(values * np.float32(change.brightness))
    if change.contrast != 1:
        values = _away_from(_gray(values).mean(), values, change.contrast)
    if change.saturation != 1:
        values = _away_from(_gray(values)[:, :, None], values, change.saturation)
    if change.hue:
        values = _with_hue(values, change.hue)
    return np.rint(values).astype(np.uint8)


def _gray(values: _Values) -> _Values:
    red, green, blue = np.moveaxis(values, 2, 0)
    gray: _Values = np.float32(0.2989) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    return gray


def _away_from(center: np.float32 | _Values, values: _Values, factor: float) -> _Values:
    return _limited(center + np.float32(factor) * (values - center))


def _with_hue(values: _Values, shift: float) -> _Values:
    colors = np.asarray(cv2.cvtColor(values / np.float32(255), cv2.COLOR_RGB2HSV), np.float32)  # hue in degrees
    colors[:, :, 0] = (colors[:, :, 0] + np.float32(360 * shift)) % 360
    return _limited(np.asarray(cv2.cvtColor(colors, cv2.COLOR_HSV2RGB), np.float32) * 255)


def _limited(values: npt.NDArray[np.floating]) -> _Values:
    return values.clip(0, 255).astype(np.float32, copy=False)
