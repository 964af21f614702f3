"""Outlines of the things, textures of the stuff, and the categories of generated scenes.

Outlines fit in a unit circle around the origin. Textures are functions of two coordinates in periods. Hues are 0..1.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import Category, CategoryTable

Floats = npt.NDArray[np.float32]

Random = np.random.Generator

Outline = tuple[Floats, ...]
"""Closed polygons, each (K, 2) x, y; the second one is a hole."""

Texture = Callable[[Floats, Floats], Floats]
"""Maps u and v, (H, W) in periods, to (H, W) in 0..1."""


def _polar(radii: list[float], start: float = -0.25) -> Floats:
    """Return a polygon with corners at equal angles, the first one at `start` full turns."""
    angles = 2 * np.pi * (start + np.arange(len(radii)) / len(radii))
    return _floats(np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array(radii)[:, None])


def _cross(arm: float) -> Floats:
    """Return a plus sign with arms of width 2 `arm`."""
    reach = (1 - arm**2) ** 0.5
    quarter = np.array([[arm, -reach], [arm, -arm], [reach, -arm]], np.float32)
    rotation = np.array([[0, 1], [-1, 0]], np.float32)
    return np.concatenate([quarter @ np.linalg.matrix_power(rotation, k) for k in range(4)])


def _stripes(u: Floats, v: Floats) -> Floats:
    del v
    return _step(np.sin(2 * np.pi * u))


def _checks(u: Floats, v: Floats) -> Floats:
    return _step(2 * np.sin(np.pi * u) * np.sin(np.pi * v))


def _dots(u: Floats, v: Floats) -> Floats:
    return _step(8 * (0.32 - np.hypot(u - np.round(u), v - np.round(v))))


def _waves(u: Floats, v: Floats) -> Floats:
    return _step(np.sin(2 * np.pi * (u + 0.4 * np.sin(2 * np.pi * 0.6 * v))))


def _clouds(u: Floats, v: Floats) -> Floats:
    """Return blotches: a sum of waves with unrelated directions and lengths."""
    waves = ((0.9, 0.3, 0.1), (-0.4, 0.8, 0.6), (0.2, -0.5, 0.3), (0.55, 0.65, 0.8), (-0.75, 0.15, 0.45))
    return _step(sum((np.sin(2 * np.pi * (0.7 * a * u + 0.7 * b * v + c)) for a, b, c in waves), np.zeros_like(u)))


def _step(signed: npt.NDArray[np.floating[Any]]) -> Floats:
    """Return 0 below zero and 1 above, with a soft transition."""
    return _floats(0.5 + 0.5 * np.tanh(3 * signed))


def _floats(values: npt.NDArray[np.floating[Any]]) -> Floats:
    return np.asarray(values, np.float32)


OUTLINES: dict[str, Outline] = {
    "disc": (_polar([0.9] * 64),),
    "square": (_polar([1.0] * 4, start=0.125),),
    "triangle": (_polar([1.0] * 3),),
    "star": (_polar([1.0, 0.52] * 5),),
    "ring": (_polar([1.0] * 64), _polar([0.45] * 64)),
    "cross": (_cross(0.38),),
}

TEXTURES: dict[str, Texture] = {
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "waves": _waves,
    "clouds": _clouds,
}

# Ids with gaps, as in COCO, so that code which confuses ids and labels fails.
THING_IDS = dict(zip(OUTLINES, (1, 2, 3, 5, 8, 13), strict=True))
STUFF_IDS = dict(zip(TEXTURES, (20, 21, 24, 27, 40), strict=True))


def draw_texture(name: str, random: Random, height: int, width: int, period: float) -> Floats:
    """Return a texture at a random angle and phase, (height, width), 0..1; `period` is in pixels."""
    x, y = rotated_grid(random, height, width)
    return TEXTURES[name](x / period + np.float32(random.random()), y / period + np.float32(random.random()))


def rotated_grid(random: Random, height: int, width: int) -> tuple[Floats, Floats]:
    """Return pixel coordinates relative to the center along two axes rotated by a random angle."""
    angle = random.uniform(0, 2 * np.pi)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x = np.arange(width, dtype=np.float32) - width / 2
    y = np.arange(height, dtype=np.float32)[:, None] - height / 2
    return x * cosine + y * sine, y * cosine - x * sine


def mean_hue(name: str) -> float:
    """Return the mean hue of a class, 0..1; evenly spaced among the things and among the stuff."""
    group = list(OUTLINES if name in OUTLINES else STUFF_IDS)
    return group.index(name) / len(group)


def rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    """Return an RGB color, 0..255, of an HSV color, 0..1."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def scene_categories() -> CategoryTable:
    """Return the category table of the generated scenes."""
    things = [Category(id_, name, True, rgb(mean_hue(name), 0.75, 0.92)) for name, id_ in THING_IDS.items()]
    stuff = [Category(id_, name, False, rgb(mean_hue(name), 0.3, 0.62)) for name, id_ in STUFF_IDS.items()]
    return CategoryTable(things + stuff)
