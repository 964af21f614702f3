"""Weather corruptions: snow, fog, frost on the lens, and spatter of water or mud."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from panformer_cli.data.corruptions.blur import move
from panformer_cli.data.corruptions.frost_texture import frost_texture
from panformer_cli.data.corruptions.pixels import Floats, Random, as_image, as_unit, gaussian
from panformer_cli.data.corruptions.plasma import plasma
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray


def fog(image: ImageArray, severity: int, rng: Random) -> ImageArray:
    """Blend the image with clouds; its maximum is unchanged."""
    density, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[severity - 1]
    height, width = image.shape[:2]
    unit = as_unit(image)
    brightest = unit.max()
    clouds = plasma(max(height, width), decay, rng)[:height, :width, None]
    return as_image((unit + density * clouds) * brightest / (brightest + density))


def frost(image: ImageArray, severity: int, rng: Random) -> ImageArray:
    """Return a weighted sum of the image and an ice texture (`frost_texture`)."""
    share, ice = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity - 1]
    height, width = image.shape[:2]
    mixed = share * image + ice * frost_texture(height, width, rng)
    return np.clip(mixed, 0, 255).astype(np.uint8)


def snow(image: ImageArray, severity: int, rng: Random) -> ImageArray:
    """Add falling flakes and make the image paler."""
    mean, deviation, zoom, least, radius, sigma, share = (
        (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[severity - 1]
    height, width = image.shape[:2]
    flakes = _enlarged(rng.normal(mean, deviation, (height, width)), zoom)
    flakes = np.clip(np.where(flakes < least, 0, flakes), 0, 1)
    flakes = move(flakes, radius, sigma, angle=rng.uniform(-135, -45))[:height, :width, None]
    flakes = np.round(flakes * 255) / 255
    unit = as_unit(image).astype(np.float32)
    gray = cv2.cvtColor(unit, cv2.COLOR_RGB2GRAY)[..., None]
    pale = share * unit + (1 - share) * np.maximum(unit, 1.5 * gray + 0.5)
    return as_image(pale + flakes + np.rot90(flakes, 2))


def spatter(image: ImageArray, severity: int, rng: Random) -> ImageArray:
    """Add drops on the lens: water up to severity 3, mud from 4 on."""
    mean, deviation, sigma, least, strength = (
        (0.65, 0.3, 4, 0.69, 0.6),
        (0.65, 0.3, 3, 0.68, 0.6),
        (0.65, 0.3, 2, 0.68, 0.5),
        (0.65, 0.3, 1, 0.65, 1.5),
        (0.67, 0.4, 1, 0.65, 1.5),
    )[severity - 1]
    unit = as_unit(image).astype(np.float32)
    liquid = gaussian(rng.normal(mean, deviation, image.shape[:2]), sigma)
    liquid[liquid < least] = 0
    if severity <= 3:
        turquoise = np.array([175, 238, 238], np.float32) / 255
        return as_image(unit + strength * _water(liquid)[..., None] * turquoise)
    brown = np.array([63, 42, 20]) / 255
    mud = gaussian((liquid > least).astype(np.float32), strength)
    mud[mud < 0.8] = 0
    return as_image(unit * (1 - mud[..., None]) + mud[..., None] * brown)


def _enlarged(values: Floats, zoom: float) -> Floats:
    """Return the center of `values` (H, W), enlarged linearly to at least H x W."""
    height, width = (int(np.ceil(side / zoom)) for side in values.shape)
    top, left = (values.shape[0] - height) // 2, (values.shape[1] - width) // 2
    return np.asarray(ndimage.zoom(values[top : top + height, left : left + width], zoom, order=1))


def _water(liquid: Floats) -> Floats:
    """Return the brightness of the water, lit from one side at the edges of the drops; (H, W) float32, 0..1.

    Args:
        liquid: (H, W), 0 where it is dry.
    """
    drops = (liquid * 255).astype(np.uint8)
    distance = cv2.distanceTransform(255 - cv2.Canny(drops, 50, 150), cv2.DIST_L2, 5)
    depth = cv2.equalizeHist(cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8))
    light = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    lit = cv2.blur(cv2.filter2D(depth, cv2.CV_8U, light), (3, 3)).astype(np.float32)
    water = drops * lit
    return np.asarray(water / max(water.max(), 1))
