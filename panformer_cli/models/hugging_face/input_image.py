"""The input of each architecture: size, resizing, normalization and padding as in its original project."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from panformer_cli.data.structures import ImageArray
from panformer_cli.models.hugging_face.architectures import Architecture
from panformer_cli.models.hugging_face.preprocessor import Colors

Size = tuple[int, int]
"""Height and width in pixels."""


def resized_size(size: Size, architecture: Architecture, short_side: int, long_side: int) -> Size:
    """Return the size of the resized image, without padding.

    Args:
        size: of the image.
        architecture: its rule.
        short_side: length of the short side; EoMT, whose input is square, does not use it.
        long_side: maximum length of the long side.
    """
    rules = {"shortest edge": _shortest_edge, "shortest edge of DETR": _shortest_edge_of_detr, "square": _inside_square}
    height, width = rules[architecture.rounding](size, short_side, long_side)
    return max(1, height), max(1, width)


def _shortest_edge(size: Size, short_side: int, long_side: int) -> Size:
    """Return the size by the rule of detectron2's `ResizeShortestEdge`: rounded once, at the end."""
    height, width = size
    scale = short_side * 1.0 / min(size)
    new_height, new_width = (short_side, scale * width) if height < width else (scale * height, short_side)
    if max(new_height, new_width) > long_side:
        scale = long_side * 1.0 / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    return int(new_height + 0.5), int(new_width + 0.5)


def _shortest_edge_of_detr(size: Size, short_side: int, long_side: int) -> Size:
    """Return the size by DETR's rule: the short side is rounded, and the long side, computed from it, is cut off."""
    shortest, longest = min(size), max(size)
    if longest / shortest * short_side > long_side:
        short_side = round(long_side * shortest / longest)
    long = int(short_side * longest / shortest)
    return (short_side, long) if size[0] <= size[1] else (long, short_side)


def _inside_square(size: Size, short_side: int, long_side: int) -> Size:
    """Return the largest size inside a square with sides of `long_side`, by EoMT's rule."""
    del short_side
    scale = min(long_side / size[0], long_side / size[1])
    return round(size[0] * scale), round(size[1] * scale)


def resize(image: ImageArray, size: Size) -> ImageArray:
    """Resize (H, W, 3) uint8 bilinearly with Pillow, which smooths an image that gets smaller."""
    height, width = size
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def normalize(image: ImageArray, architecture: Architecture, mean: Colors, std: Colors) -> Tensor:
    """Return (H, W, 3) uint8 RGB as (3, H, W) float32 with the mean and deviation that the network expects."""
    values = np.arange(256, dtype=np.float32)
    means, stds = np.array(mean)[:, None], np.array(std)[:, None]
    if architecture.rounding == "shortest edge":  # detectron2 normalizes values of 0 to 255
        tables = (values - (means * 255).astype(np.float32)) / (stds * 255).astype(np.float32)
    else:
        tables = (values / np.float32(255) - means.astype(np.float32)) / stds.astype(np.float32)
    channels = np.stack([table[image[:, :, channel]] for channel, table in enumerate(tables)])
    return torch.from_numpy(channels)


def canvas_size(size: Size, architecture: Architecture, square: int) -> Size:
    """Return the size of the padded input.

    Args:
        size: of the resized image.
        architecture: its rule.
        square: side of the input of an architecture with a square input.
    """
    if architecture.rounding == "square":
        return square, square
    multiple = architecture.multiple
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


def padded(image: ImageArray, architecture: Architecture, canvas: Size, mean: Colors, std: Colors) -> Tensor:
    """Return a resized image normalized, in the top-left corner of a canvas, (3, height, width) float32.

    EoMT pads with black, that is before normalization. The others pad with 0 after it.
    """
    height, width = image.shape[:2]
    if architecture.rounding == "square":
        black = np.zeros((*canvas, 3), np.uint8)
        black[:height, :width] = image
        return normalize(black, architecture, mean, std)
    result = torch.zeros(3, *canvas)
    result[:, :height, :width] = normalize(image, architecture, mean, std)
    return result
