"""Sprites of a generated scene: objects, crowds, and regions without annotation."""

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
    rotated_grid,
)

Mask = npt.NDArray[np.bool_]

Corners = npt.NDArray[np.int32]
"""(K, 2) x, y in OpenCV's fixed-point format, with SUBPIXEL_BITS fractional bits."""

SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Sprite:
    """An image patch to paint on a canvas.

    Attributes:
        color: (h, w, 3) float32, 0..255.
        opacity: (h, w) float32, 0..1, shadow included.
        mask: (h, w) bool, the pixels of the object itself.
        left: column of its first pixel; it may be outside the canvas.
        top: row of its first pixel; it may be outside the canvas.
    """

    color: Floats
    opacity: Floats
    mask: Mask
    left: int
    top: int

    def windows(self, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return the part inside a canvas of this size, as a window of the canvas and as one of the sprite."""
        (rows, own_rows), (columns, own_columns) = (
            _overlap(self.top, self.mask.shape[0], height),
            _overlap(self.left, self.mask.shape[1], width),
        )
        return (rows, columns), (own_rows, own_columns)

    def stamp(self, owner: npt.NDArray[np.int32], new: int) -> None:
        """Set the pixels of the object in a map, (H, W), to `new`."""
        window, own = self.windows(*owner.shape)
        owner[window][self.mask[own]] = new

    def paint(self, image: Floats) -> None:
        """Paint the sprite on top of an image, (H, W, 3) float32, 0..255, in place."""
        window, own = self.windows(*image.shape[:2])
        image[window] += self.opacity[own][..., None] * (self.color[own] - image[window])


def object_sprite(name: str, diameter: float, center: tuple[float, float], hue: float, random: Random) -> Sprite:
    """Return a randomly rotated object of class `name`.

    Args:
        name: a thing class.
        diameter: of the circle around the object, in pixels.
        center: x, y in pixels.
        hue: 0..1.
        random: source of all random choices.
    """
    side = int(np.ceil(1.2 * diameter)) + 6
    left, top = (int(np.floor(coordinate - side / 2)) for coordinate in center)
    corners = _place(name, diameter, (center[0] - left, center[1] - top), random.uniform(0, 2 * np.pi))
    coverage = _fill(corners, side, side)
    color = _fill_color(side, diameter, hue, random)
    if random.random() < 0.65:
        _draw_rim(color, corners, max(1, round(diameter * random.uniform(0.02, 0.06))), random)
    return _with_shadow(color, coverage, round(0.05 * diameter) + 1, left, top)


def crowd_sprite(
    name: str, count: int, diameter: float, center: tuple[float, float], hue: float, random: Random
) -> Sprite:
    """Return a tight cluster of `count` objects of one class; its mask includes the gaps between the objects.

    Args:
        name: a thing class.
        count: number of objects.
        diameter: of one object, in pixels; the cluster grows with `count`.
        center: of the cluster, x, y in pixels.
        hue: 0..1.
        random: source of all random choices.
    """
    reach = 0.5 * diameter * count**0.5
    side = int(np.ceil(2 * (reach + diameter))) + 6
    left, top = (int(np.floor(coordinate - side / 2)) for coordinate in center)
    color = np.zeros((side, side, 3), np.float32)
    coverage = np.zeros((side, side), np.float32)
    for k in range(count):
        # The golden angle spreads any number of points evenly over a disk.
        angle, distance = 2.4 * k + random.normal(0, 0.2), reach * ((k + 0.5) / count) ** 0.5
        middle = (side / 2 + distance * np.cos(angle), side / 2 + distance * np.sin(angle))
        size = diameter * random.uniform(0.8, 1.2)
        corners = _place(name, size, middle, random.uniform(0, 2 * np.pi))
        part = _fill(corners, side, side)
        tint = _color(hue + random.normal(0, 0.02), random.uniform(0.5, 0.9), random.uniform(0.55, 1))
        color += part[..., None] * (tint - color)
        np.maximum(coverage, part, out=coverage)
    sprite = _with_shadow(color, coverage, 1, left, top)
    gap = 2 * round(diameter / 4) + 1
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap))
    closed = cv2.morphologyEx(sprite.mask.astype(np.uint8), cv2.MORPH_CLOSE, element).astype(bool)
    return Sprite(sprite.color, sprite.opacity, closed, left, top)


def scribble_sprite(height: int, width: int, random: Random) -> Sprite:
    """Return a scribble over part of a canvas of this size."""
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
    color = np.empty((height, width, 3), np.float32)
    color[:] = rgb(0, 0, random.choice([random.uniform(0.05, 0.2), random.uniform(0.9, 1.0)]))
    return Sprite(color, coverage, coverage >= 0.5, 0, 0)


def frame_sprite(height: int, width: int, random: Random) -> Sprite:
    """Return a dark border along one to four sides of a canvas of this size, as in scanned images."""
    widths = np.rint(min(height, width) * random.uniform(0.03, 0.12, 4)).astype(int)
    top, left, bottom, right = np.where(random.permutation(4) <= random.integers(0, 4), np.maximum(widths, 1), 0)
    mask = np.ones((height, width), np.bool_)
    mask[top : height - bottom, left : width - right] = False
    color = np.empty((height, width, 3), np.float32)
    color[:] = rgb(random.random(), 0.3, random.uniform(0.05, 0.2))
    return Sprite(color, mask.astype(np.float32), mask, 0, 0)


def draw_hue(name: str, spread: float, random: Random) -> float:
    """Return a random hue, 0..1, for an object of class `name`; `spread` is the standard deviation in degrees."""
    return float(mean_hue(name) + random.normal(0, spread / 360)) % 1


def _overlap(start: int, length: int, limit: int) -> tuple[slice, slice]:
    first = min(max(start, 0), limit)
    last = max(min(start + length, limit), first)
    return slice(first, last), slice(first - start, last - start)


def _place(name: str, diameter: float, center: tuple[float, float], angle: float) -> list[Corners]:
    """Return the outline of a class in image coordinates."""
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return [_fixed_point(polygon @ rotation * (diameter / 2) + np.array(center)) for polygon in OUTLINES[name]]


def _fixed_point(points: npt.NDArray[np.float64]) -> Corners:
    return np.asarray(np.rint(points * 2**SUBPIXEL_BITS), np.int32)


def _fill(corners: list[Corners], height: int, width: int) -> Floats:
    """Return the covered fraction of each pixel, (height, width), 0..1."""
    ink = np.zeros((height, width), np.uint8)
    cv2.fillPoly(ink, corners, 255, cv2.LINE_AA, SUBPIXEL_BITS)
    return ink.astype(np.float32) / np.float32(255)


def _color(hue: float, saturation: float, value: float) -> Floats:
    """Return an RGB color, (3,) 0..255, of an HSV color, 0..1."""
    return np.array(rgb(hue, saturation, value), np.float32)


def _fill_color(side: int, diameter: float, hue: float, random: Random) -> Floats:
    """Return a shaded, sometimes textured fill, (side, side, 3)."""
    base = _color(hue, random.uniform(0.5, 0.95), random.uniform(0.55, 1.0))
    across, _ = rotated_grid(random, side, side)
    shade = 1 + np.float32(random.uniform(0, 0.5) / side) * across
    if random.random() < 0.4:
        pattern = draw_texture(str(random.choice(list(TEXTURES))), random, side, side, max(5.0, 0.22 * diameter))
        shade = shade + np.float32(random.uniform(0.1, 0.3)) * (pattern - np.float32(0.5))
    shaded: Floats = np.clip(base * shade[..., None], 0, 255)
    return shaded


def _draw_rim(color: Floats, corners: list[Corners], thickness: int, random: Random) -> None:
    """Draw a darker or brighter line along the inside of the outline."""
    ink = np.zeros(color.shape[:2], np.uint8)
    cv2.polylines(ink, corners, True, 255, 2 * thickness, cv2.LINE_AA, SUBPIXEL_BITS)
    rim = np.float32(random.choice([0.45, 1.45])) * color.mean(axis=(0, 1))
    color += ink[..., None] / np.float32(255) * (np.minimum(rim, 255) - color)


def _with_shadow(color: Floats, coverage: Floats, distance: int, left: int, top: int) -> Sprite:
    """Return a sprite with a shadow below and to the right of it."""
    moved = np.zeros_like(coverage)
    moved[distance:, distance:] = coverage[:-distance, :-distance]
    blurred = np.asarray(cv2.GaussianBlur(moved, (0, 0), 0.7 * distance), np.float32)
    shadow = np.float32(0.4) * blurred * (1 - coverage)
    opacity: Floats = coverage + shadow
    # The shadow is black, so it adds opacity but no color.
    mixed = color * (coverage / np.maximum(opacity, np.float32(1e-6)))[..., None]
    return Sprite(mixed.astype(np.float32), opacity, coverage >= 0.5, left, top)
