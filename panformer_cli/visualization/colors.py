"""Distinguishable colors, chosen in OKLab, a perceptually uniform color space.

OKLab has lightness (0..1) and two color axes (Björn Ottosson, 2020). OKLCH is OKLab with chroma and hue.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import CategoryTable

Floats = npt.NDArray[np.float64]
Colors = npt.NDArray[np.uint8]
"""(N, 3) uint8, sRGB."""

VOID = (0, 0, 0)
"""Color of pixels without a segment; no category has it."""

SMALLEST_DISTANCE = 0.05
"""OKLab distance below which two colors are treated as equal; about 0.02 is just noticeable."""

_RGB_TO_CONES = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
_CONES_TO_LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip


@lru_cache(maxsize=8)
def category_colors(categories: CategoryTable) -> Colors:
    """Return one color per category: (len(categories), 3) uint8 RGB, in the order of labels; read-only.

    Colors depend only on the table, so a category looks the same in every image. A color from the table is kept if it
    differs from earlier ones and from black (void); the other colors are as far apart as possible.
    """
    colors = np.zeros((len(categories), 3), np.uint8)
    taken = rgb_to_oklab(np.array([VOID], np.uint8))
    without_color = []
    for label, category in enumerate(categories.categories):
        lab = rgb_to_oklab(np.clip(np.array([category.color or VOID]), 0, 255).astype(np.uint8))
        if np.linalg.norm(taken - lab, axis=1).min() < SMALLEST_DISTANCE:
            without_color.append(label)
        else:
            colors[label] = np.clip(category.color or VOID, 0, 255)
            taken = np.concatenate([taken, lab])
    colors[without_color] = _spread(taken, len(without_color))
    colors.setflags(write=False)
    return colors


def shade(color: npt.ArrayLike, index: int) -> Colors:
    """Return the color of instance `index` of a category: (3,) uint8, a shade of `color`; 0 is `color` itself.

    Lightness and hue follow a low-discrepancy sequence, so that the first instances are easy to tell apart.
    """
    base = np.asarray(color, np.uint8)
    if index == 0:
        return base
    lightness, a, b = rgb_to_oklab(base[None])[0]
    chroma, hue = max(float(np.hypot(a, b)), 0.05), float(np.arctan2(b, a))
    # Steps from the golden ratio and the square of the plastic number keep the first twenty shades apart.
    step_l, step_h = (0.5 + np.array([0.6180339887, 0.5698402910]) * index) % 1 - 0.5
    center = float(np.clip(lightness, 0.45, 0.72))
    lch = np.array([[center + 0.36 * step_l, chroma, hue + np.radians(52) * step_h]])
    return np.asarray(_oklch_to_rgb(lch)[0])


def rgb_to_oklab(colors: Colors) -> Floats:
    """Convert (N, 3) uint8 sRGB to (N, 3) float64 OKLab: lightness 0..1, green-red, blue-yellow."""
    srgb = colors.astype(np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(linear @ _RGB_TO_CONES.T) @ _CONES_TO_LAB.T)


def _oklab_to_linear_rgb(lab: Floats) -> Floats:
    """Invert `rgb_to_oklab` up to the gamma curve; values outside 0..1 are outside of sRGB."""
    cones = lab @ np.linalg.inv(_CONES_TO_LAB).T
    return np.asarray(cones**3 @ np.linalg.inv(_RGB_TO_CONES).T)


def _oklch_to_rgb(lch: Floats) -> Colors:
    """Convert (N, 3) lightness, chroma, hue (radians) to (N, 3) uint8; chroma is reduced where it exceeds sRGB."""
    colors = np.zeros(lch.shape)
    missing = np.ones(len(lch), bool)
    for share in np.linspace(1, 0, 21):
        linear = _oklab_to_linear_rgb(_lch_to_lab(lch * [1, share, 1]))
        fits = missing & ((linear > -1e-3) & (linear < 1 + 1e-3)).all(axis=1)
        colors[fits] = linear[fits]
        missing &= ~fits
    linear = np.clip(colors, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.round(255 * srgb).astype(np.uint8))


def _lch_to_lab(lch: Floats) -> Floats:
    lightness, chroma, hue = lch.T
    return np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)


def _spread(taken: Floats, count: int) -> Colors:
    """Return `count` colors, as far as possible from each other and from `taken`: (count, 3) uint8."""
    candidates = _candidates()
    labs = rgb_to_oklab(candidates)
    distance = np.linalg.norm(labs[:, None] - taken[None], axis=2).min(axis=1)
    chosen = np.zeros((count, 3), np.uint8)
    for position in range(count):
        best = int(distance.argmax())
        chosen[position] = candidates[best]
        distance = np.minimum(distance, np.linalg.norm(labs - labs[best], axis=1))
    return chosen


def _candidates() -> Colors:
    """Return (K, 3) uint8 colors for overlays on photos: not too dark, pale or saturated."""
    grid = np.meshgrid(
        np.linspace(0.48, 0.88, 11), np.linspace(0.05, 0.17, 7), np.radians(np.arange(0, 360, 7.5)), indexing="ij"
    )
    lch = np.stack([axis.ravel() for axis in grid], axis=1)
    linear = _oklab_to_linear_rgb(_lch_to_lab(lch))
    return _oklch_to_rgb(lch[((linear >= 0) & (linear <= 1)).all(axis=1)])
