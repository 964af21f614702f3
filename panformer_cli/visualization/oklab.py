"""OKLab, a perceptually uniform color space (Björn Ottosson, 2020): lightness (0..1) and two color axes.

OKLCH is OKLab with chroma and hue (radians).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Colors = npt.NDArray[np.uint8]
"""(N, 3) uint8, sRGB."""

_RGB_TO_CONES = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
_CONES_TO_LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip
_LAB_TO_CONES = np.linalg.inv(_CONES_TO_LAB)
_CONES_TO_RGB = np.linalg.inv(_RGB_TO_CONES)


def rgb_to_linear(colors: Colors) -> Floats:
    """Convert (N, 3) uint8 sRGB to (N, 3) float64 linear light, 0..1."""
    srgb = colors.astype(np.float64) / 255
    return np.asarray(np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4))


def linear_to_rgb(linear: Floats) -> Colors:
    """Invert `rgb_to_linear`; values outside 0..1 are clipped."""
    linear = np.clip(linear, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.round(255 * srgb).astype(np.uint8))


def rgb_to_oklab(colors: Colors) -> Floats:
    """Convert (N, 3) uint8 sRGB to (N, 3) float64 OKLab: lightness 0..1, green-red, blue-yellow."""
    return linear_to_oklab(rgb_to_linear(colors))


def linear_to_oklab(linear: Floats) -> Floats:
    """Convert (N, 3) linear light to (N, 3) float64 OKLab."""
    return np.asarray(np.cbrt(linear @ _RGB_TO_CONES.T) @ _CONES_TO_LAB.T)


def lch_to_rgb(lch: Floats) -> Colors:
    """Convert (N, 3) OKLCH to (N, 3) uint8; chroma is reduced where it exceeds sRGB."""
    colors = np.zeros(lch.shape)
    missing = np.ones(len(lch), bool)
    for share in np.linspace(1, 0, 21):
        linear = _lch_to_linear(lch * [1, share, 1])
        fits = missing & ((linear > -1e-3) & (linear < 1 + 1e-3)).all(axis=1)
        colors[fits] = linear[fits]
        missing &= ~fits
    return linear_to_rgb(colors)


def in_srgb(lch: Floats) -> npt.NDArray[np.bool_]:
    """Return which of (N, 3) OKLCH colors sRGB has: (N,)."""
    linear = _lch_to_linear(lch)
    return np.asarray(((linear >= 0) & (linear <= 1)).all(axis=1))


def _lch_to_linear(lch: Floats) -> Floats:
    lightness, chroma, hue = lch.T
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    return np.asarray((lab @ _LAB_TO_CONES.T) ** 3 @ _CONES_TO_RGB.T)
