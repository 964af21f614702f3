"""Blur corruptions: defocus, frosted glass, motion and Gaussian."""

from __future__ import annotations

import numpy as np

from panformer_cli.data.corruptions.pixels import Floats, Random, as_image, as_unit, gaussian
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray


def gaussian_blur(image: ImageArray, severity: int, rng: Random) -> ImageArray:
    """Blur with a Gaussian."""
    del rng
    return as_image(gaussian(as_unit(image), (1, 2, 3, 4, 6)[severity - 1]))


def defocus_blur(image: ImageArray, severity: int, rng: Random) -> ImageArray:
    """Spread each point to a disk, like a lens out of focus."""
    del rng
    radius, smoothing = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1]
    return as_image(np.asarray(cv2.filter2D(as_unit(image), -1, _disk(radius, smoothing)), np.float64))


def motion_blur(image: ImageArray, severity: int, rng: Random) -> ImageArray:
    """Blur along a random direction within 45 degrees of the horizontal."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    moved = move(image.astype(np.float64), radius, sigma, angle=rng.uniform(-45, 45))
    return np.clip(moved, 0, 255).astype(np.uint8)


def glass_blur(image: ImageArray, severity: int, rng: Random) -> ImageArray:
    """Scatter pixels locally, as through frosted glass; smooth before and after."""
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity - 1]
    smooth = as_image(gaussian(as_unit(image), sigma))
    height, width = image.shape[:2]
    order = _scattered(height, width, reach, rounds, rng)
    scattered = smooth.reshape(-1, 3)[order].reshape(image.shape)
    return as_image(gaussian(as_unit(scattered), sigma))


def move(values: Floats, radius: int, sigma: float, angle: float) -> Floats:
    """Return the mean of `values` along a path of 2 `radius` pixels, weighted with half a Gaussian.

    Args:
        values: (H, W) or (H, W, C) float.
        radius: half the length of the path, in pixels.
        sigma: of the Gaussian, in pixels.
        angle: degrees clockwise from the horizontal.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    down = -np.ceil(steps * np.sin(np.deg2rad(angle)) - 0.5).astype(int)
    right = -np.ceil(steps * np.cos(np.deg2rad(angle)) - 0.5).astype(int)
    height, width = values.shape[:2]
    border = 2 * radius + 1
    padded = cv2.copyMakeBorder(values, border, border, border, border, cv2.BORDER_REPLICATE)
    moved = np.zeros_like(values, np.float64)
    for weight, dy, dx in zip(weights, down, right, strict=True):
        moved += weight * padded[border - dy : border - dy + height, border - dx : border - dx + width]
    return moved


def _disk(radius: int, smoothing: float) -> Floats:
    """Return a filter kernel: a disk with sum 1, its edge smoothed with a Gaussian of sigma `smoothing`."""
    reach = max(radius, 8)
    side = np.arange(-reach, reach + 1)
    disk = (side[:, None] ** 2 + side**2 <= radius**2).astype(np.float32)
    edge = (3, 3) if radius <= 8 else (5, 5)
    return np.asarray(cv2.GaussianBlur(disk / disk.sum(), edge, smoothing))


def _scattered(height: int, width: int, reach: int, rounds: int, rng: Random) -> list[int]:
    """Return the flat index of the source pixel of each pixel, in row order.

    Starting at the bottom right, each pixel takes the current value of a neighbor within `reach`. The reference
    implementation intends to swap the two but copies in one direction; its images, and so these, contain the copies.
    """
    rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
    order = list(range(height * width))
    for _ in range(rounds):
        offsets = rng.integers(-reach, reach, size=(len(rows), len(columns), 2))
        own = rows[:, None] * width + columns
        neighbor = own + offsets[..., 1] * width + offsets[..., 0]
        for pixel, source in zip(own.ravel().tolist(), neighbor.ravel().tolist(), strict=True):
            order[pixel] = order[source]
    return order
