"""From an image to the input of the model: sizes, resizing and normalization (docs/model.md, "Input")."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray

MEAN = (123.675, 116.28, 103.53)
"""Mean of the channels R, G, B over ImageNet, 0..255."""
STD = (58.395, 57.12, 57.375)
"""Standard deviation of the channels R, G, B over ImageNet, 0..255."""

LEAST_SIDE = 32
"""In pixels; at this size the coarsest feature map of each backbone is one cell."""

# A channel has only 256 values, so normalization is a table lookup: (3, 256) float32.
_MEAN, _STD = np.array(MEAN, np.float32)[:, None], np.array(STD, np.float32)[:, None]
_NORMALIZED = (np.arange(256, dtype=np.float32) - _MEAN) / _STD


def resized_size(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """Return height and width after resizing to sides of at most `short_side` and `long_side`.

    The aspect ratio is kept, but no side gets shorter than `LEAST_SIDE`, the minimum for the backbones.

    >>> resized_size(480, 640, 800, 1333)
    (800, 1067)
    """
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return max(LEAST_SIDE, int(height * scale + 0.5)), max(LEAST_SIDE, int(width * scale + 0.5))


def resize_image(image: ImageArray, height: int, width: int) -> ImageArray:
    """Resize (H, W, 3) uint8 to (height, width, 3), bilinearly and without antialiasing."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def normalize(image: ImageArray) -> Tensor:
    """Return (H, W, 3) uint8 RGB as (3, H, W) float32 with mean 0 and standard deviation 1 over ImageNet."""
    channels = np.empty((3, *image.shape[:2]), np.float32)
    for channel, table in enumerate(_NORMALIZED):
        np.take(table, image[:, :, channel], out=channels[channel])
    return torch.from_numpy(channels)


def prepare_image(image: ImageArray, short_side: int, long_side: int) -> Tensor:
    """Return the model's input at inference: (H, W, 3) uint8 RGB, resized and normalized to (3, H', W') float32."""
    height, width = image.shape[:2]
    return normalize(resize_image(image, *resized_size(height, width, short_side, long_side)))
