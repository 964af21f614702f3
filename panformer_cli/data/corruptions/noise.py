"""Noise corruptions; each channel of each pixel is independent."""

from __future__ import annotations

from panformer_cli.data.corruptions.pixels import Random, as_image, as_unit
from panformer_cli.data.structures import ImageArray


def gaussian_noise(image: ImageArray, severity: int, rng: Random) -> ImageArray:
    """Add Gaussian noise of constant strength, as in low light."""
    deviation = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    return as_image(as_unit(image) + rng.normal(0, deviation, image.shape))


def shot_noise(image: ImageArray, severity: int, rng: Random) -> ImageArray:
    """Add the Poisson noise of a sensor that counts few photons."""
    photons = (60, 25, 12, 5, 3)[severity - 1]
    return as_image(rng.poisson(as_unit(image) * photons) / photons)


def impulse_noise(image: ImageArray, severity: int, rng: Random) -> ImageArray:
    """Set a fraction of the values to 255 or 0 with equal probability (salt and pepper)."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    hit = rng.random(image.shape) <= share
    salt = rng.random(image.shape) <= 0.5
    corrupted = image.copy()
    corrupted[hit] = 255 * salt[hit]
    return corrupted


def speckle_noise(image: ImageArray, severity: int, rng: Random) -> ImageArray:
    """Add Gaussian noise proportional to the brightness."""
    deviation = (0.15, 0.2, 0.35, 0.45, 0.6)[severity - 1]
    unit = as_unit(image)
    return as_image(unit + unit * rng.normal(0, deviation, image.shape))
