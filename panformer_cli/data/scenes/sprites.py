"""What lies on the ground of a generated scene: objects, crowds of them, and regions that are not annotated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from panformer_cli.data.opencv import cv2
from panformer_cli.data.scenes.patterns import (
    OUTLINES,
    TEXTURES,
    Floats,
    Random,
    draw_texture,
    mean_hue,
    rgb,
    turned_grid,
)

Mask = npt.NDArray[np.bool_]

Corners = npt.NDArray[np.int32]
"""(K, 2) x, y in the fixed-point form that OpenCV draws, SUBPIXEL_BITS behind the point."""

SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Sprite:
    """Something to put on a canvas.

    colour: (h, w, 3) float32, 0..255.
    opacity: (h, w) float32, 0..1, how much of a pixel's old colour it hides; its shadow included.
    mask: (h, w) bool, the pixels that are its own.
    left, top: where its first pixel goes; it may stick out of the canvas.
    """

    colour: Floats
    opacity: Floats
    mask: Mask
    left: int
    top: int

    def windows(self, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """The part that lies on a canvas of that size: as a window of the canvas, and as one of the sprite."""
        (rows, own_rows), (columns, own_columns) = (
            _overlap(self.top, self.mask.shape[0], height),
            _overlap(self.left, self.mask.shape[1], width),
        )
        return (rows, columns), (own_rows, own_columns)


def object_sprite(name: str, diameter: float, centre: tuple[float, float], hue: float, random: Random) -> Sprite:
    """An object of class `name`, turned at random.

    diameter: of the circle around it, pixels. centre: x, y, pixels. hue: in turns.
    """
    side = int(np.ceil(1.2 * diameter)) + 6
    left, top = (int(np.floor(place - side / 2)) for place in centre)
    corners = _place(name, diameter, (centre[0] - left, centre[1] - top), random.uniform(0, 2 * np.pi))
    coverage = _fill(corners, side, side)
    colour = _fill_colour(side, diameter, hue, random)
    if random.random() < 0.65:
        _draw_rim(colour, corners, max(1, round(diameter * random.uniform(0.02, 0.06))), random)
    return _with_shadow(colour, coverage, round(0.05 * diameter) + 1, left, top)


def crowd_sprite(
    name: str, count: int, diameter: float, centre: tuple[float, float], hue: float, random: Random
) -> Sprite:
    """A tight cluster of `count` objects of one class; its mask is the cluster with the gaps inside it.

    diameter: of one object, pixels; the cluster grows with `count`. centre: of the cluster, x, y, pixels.
    """
    reach = 0.5 * diameter * count**0.5
    side = int(np.ceil(2 * (reach + diameter))) + 6
    left, top = (int(np.floor(place - side / 2)) for place in centre)
    colour = np.zeros((side, side, 3), np.float32)
    coverage = np.zeros((side, side), np.float32)
    for k in range(count):
        # The golden angle spreads any number of points evenly over a disc.
        angle, distance = 2.4 * k + random.normal(0, 0.2), reach * ((k + 0.5) / count) ** 0.5
        middle = (side / 2 + distance * np.cos(angle), side / 2 + distance * np.sin(angle))
        size = diameter * random.uniform(0.8, 1.2)
        corners = _place(name, size, middle, random.uniform(0, 2 * np.pi))
        part = _fill(corners, side, side)
        tint = _colour(hue + random.normal(0, 0.02), random.uniform(0.5, 0.9), random.uniform(0.55, 1))
        colour += part[..., None] * (tint - colour)
        np.maximum(coverage, part, out=coverage)
    sprite = _with_shadow(colour, coverage, 1, left, top)
    gap = 2 * round(diameter / 4) + 1
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap))
    closed = cv2.morphologyEx(sprite.mask.astype(np.uint8), cv2.MORPH_CLOSE, element).astype(bool)
    return Sprite(sprite.colour, sprite.opacity, closed, left, top)


def scribble_sprite(height: int, width: int, random: Random) -> Sprite:
    """A scrawl over part of a canvas of that size."""
    unit = min(height, width)
    time = np.linspace(0, 1, 60)[:, None]
    path = random.uniform(0.2, 0.8, 2) * (width, height) + np.zeros((60, 1))
    for frequency in (1, 2, 3, 5):
        swing = unit * random.uniform(0.03, 0.24 / frequency**0.7, 2)
        path = path + swing * np.sin(2 * np.pi * (frequency * time + random.random(2)))
    ink = np.zeros((height, width), np.uint8)
    thickness = max(2, round(unit * random.uniform(0.03, 0.06)))
    cv2.polylines(ink, [_fixed_point(path)], False, 255, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
    coverage = ink.astype(np.float32) / np.float32(255)
    colour = np.empty((height, width, 3), np.float32)
    colour[:] = rgb(0, 0, random.choice([random.uniform(0.05, 0.2), random.uniform(0.9, 1.0)]))
    return Sprite(colour, coverage, coverage >= 0.5, 0, 0)


def frame_sprite(height: int, width: int, random: Random) -> Sprite:
    """A dark border along one to four sides of a canvas of that size, as scanned pictures have."""
    breadths = np.rint(min(height, width) * random.uniform(0.03, 0.12, 4)).astype(int)
    top, left, bottom, right = np.where(random.permutation(4) <= random.integers(0, 4), np.maximum(breadths, 1), 0)
    mask = np.ones((height, width), np.bool_)
    mask[top : height - bottom, left : width - right] = False
    colour = np.empty((height, width, 3), np.float32)
    colour[:] = rgb(random.random(), 0.3, random.uniform(0.05, 0.2))
    return Sprite(colour, mask.astype(np.float32), mask, 0, 0)


def draw_hue(name: str, spread: float, random: Random) -> float:
    """A hue for an object of class `name`, in turns; `spread` is the standard deviation in degrees."""
    return float(mean_hue(name) + random.normal(0, spread / 360)) % 1


def _overlap(start: int, length: int, limit: int) -> tuple[slice, slice]:
    first = min(max(start, 0), limit)
    last = max(min(start + length, limit), first)
    return slice(first, last), slice(first - start, last - start)


def _place(name: str, diameter: float, centre: tuple[float, float], angle: float) -> list[Corners]:
    """The outline of a class on the picture."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return [_fixed_point(polygon @ turn * (diameter / 2) + np.array(centre)) for polygon in OUTLINES[name]]


def _fixed_point(points: npt.NDArray[np.float64]) -> Corners:
    return np.asarray(np.rint(points * 2**SUBPIXEL_BITS), np.int32)


def _fill(corners: list[Corners], height: int, width: int) -> Floats:
    """How much of every pixel is inside, (height, width), 0..1."""
    ink = np.zeros((height, width), np.uint8)
    cv2.fillPoly(ink, corners, 255, cv2.LINE_AA, SUBPIXEL_BITS)
    return ink.astype(np.float32) / np.float32(255)


def _colour(hue: float, saturation: float, value: float) -> Floats:
    """(3,) 0..255; hue in turns."""
    return np.array(rgb(hue, saturation, value), np.float32)


def _fill_colour(side: int, diameter: float, hue: float, random: Random) -> Floats:
    """A shaded, often textured fill, (side, side, 3)."""
    base = _colour(hue, random.uniform(0.5, 0.95), random.uniform(0.55, 1.0))
    across, _ = turned_grid(random, side, side)
    shade = 1 + np.float32(random.uniform(0, 0.5) / side) * across
    if random.random() < 0.4:
        pattern = draw_texture(str(random.choice(list(TEXTURES))), random, side, side, max(5.0, 0.22 * diameter))
        shade = shade + np.float32(random.uniform(0.1, 0.3)) * (pattern - np.float32(0.5))
    shaded: Floats = np.clip(base * shade[..., None], 0, 255)
    return shaded


def _draw_rim(colour: Floats, corners: list[Corners], thickness: int, random: Random) -> None:
    """A darker or brighter line along the outline, inside it."""
    ink = np.zeros(colour.shape[:2], np.uint8)
    cv2.polylines(ink, corners, True, 255, 2 * thickness, cv2.LINE_AA, SUBPIXEL_BITS)
    rim = np.float32(random.choice([0.45, 1.45])) * colour.mean(axis=(0, 1))
    colour += ink[..., None] / np.float32(255) * (np.minimum(rim, 255) - colour)


def _with_shadow(colour: Floats, coverage: Floats, distance: int, left: int, top: int) -> Sprite:
    """A sprite that darkens what lies below and to the right of it."""
    moved = np.zeros_like(coverage)
    moved[distance:, distance:] = coverage[:-distance, :-distance]
    blurred = np.asarray(cv2.GaussianBlur(moved, (0, 0), 0.7 * distance), np.float32)
    shadow = np.float32(0.4) * blurred * (1 - coverage)
    opacity: Floats = coverage + shadow
    # The shadow is black, so it adds opacity and no colour.
    mixed = colour * (coverage / np.maximum(opacity, np.float32(1e-6)))[..., None]
    return Sprite(mixed.astype(np.float32), opacity, coverage >= 0.5, left, top)
