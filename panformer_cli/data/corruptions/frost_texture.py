"""The texture of the corruption `frost`.

The reference implementation overlays one of five photographs, which are part of the package `imagecorruptions` and are
used if it is installed. Otherwise the texture is generated: ice crystals on clouds, with brightness, contrast and tint
similar to the photographs. Results with the generated texture are not comparable to published ones.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from panformer_cli.data.corruptions.pixels import Floats, Random
from panformer_cli.data.corruptions.plasma import plasma
from panformer_cli.data.images import read_image
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray

FrostSource = Literal["photographs", "generated"]

_PHOTOGRAPHS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")


def frost_source() -> FrostSource:
    """Return which texture is used on this machine."""
    return "photographs" if _photographs() else "generated"


def frost_texture(height: int, width: int, rng: Random) -> Floats:
    """Return a texture (height, width, 3), RGB, 0..255."""
    photographs = _photographs()
    if photographs:
        return _cropped(photographs[rng.integers(0, len(photographs))], height, width, rng)
    return _generated(height, width, rng)


@lru_cache(maxsize=1)
def _photographs() -> tuple[ImageArray, ...]:
    """Return the five photographs, or none. The package is not imported, because its code needs an older NumPy."""
    spec = find_spec("imagecorruptions")
    if spec is None or not spec.submodule_search_locations:
        return ()
    folder = Path(spec.submodule_search_locations[0]) / "frost"
    return tuple(read_image(folder / name) for name in _PHOTOGRAPHS)


def _cropped(photograph: ImageArray, height: int, width: int, rng: Random) -> Floats:
    """Return a random crop of the photograph, enlarged to at least 1.1 times its size and that of the image."""
    tall, wide = photograph.shape[:2]
    scale = 1.1 * max(1, height / tall, width / wide)
    size = (int(np.ceil(wide * scale)), int(np.ceil(tall * scale)))
    enlarged = cv2.resize(photograph, size, interpolation=cv2.INTER_CUBIC)
    top = rng.integers(0, enlarged.shape[0] - height)
    left = rng.integers(0, enlarged.shape[1] - width)
    return np.asarray(enlarged[top : top + height, left : left + width], np.float64)


def _generated(height: int, width: int, rng: Random) -> Floats:
    """Return crystals on clouds, with brightness, contrast and tint in about the range of the photographs."""
    relief = plasma(max(height, width), 1.7, rng)[:height, :width] + 0.8 * _crystals(height, width, rng)
    relief = (relief - relief.mean()) / max(float(relief.std()), 1e-6)
    brightness, contrast, tint = rng.uniform(120, 205), rng.uniform(16, 44), rng.uniform(5, 20)
    return np.asarray((brightness + contrast * relief)[..., None] + tint * np.array([-1.0, 0.2, 0.8]))


def _crystals(height: int, width: int, rng: Random) -> Floats:
    """Return stars of thin needles, (height, width) float32 in 0..1, about one star per 20 x 20 pixels."""
    ice = np.zeros((height, width), np.uint8)
    for _ in range(height * width // 400 + 1):
        center = np.array([rng.uniform(0, width), rng.uniform(0, height)])
        angles = rng.uniform(0, np.pi) + np.arange(6) * np.pi / 3 + rng.normal(0, 0.15, 6)
        lengths = rng.gamma(2.0, 9.0, 6)
        ends = center + lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        needles = [np.stack([center, end]).astype(np.int32) for end in ends]
        cv2.polylines(ice, needles, False, int(rng.integers(60, 256)), 1, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(ice, (3, 3), 0.8), np.float32) / 255
