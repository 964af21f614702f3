"""Read label PNGs of any kind: values, colors, or the mask of one object."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from panformer_cli.data.image_formats import other_format
from panformer_cli.data.images import read_bytes
from panformer_cli.data.structures import IdMap, ImageArray
from panformer_cli.errors import DataError

_GRAY = ("1", "L", "I", "I;16")
_DEPTH, _COLOR_TYPE = 24, 25
"""Byte offsets of the bit depth and the color type (0 is gray) in a PNG file."""


def read_values(path: Path, size: tuple[int, int]) -> IdMap:
    """Return one value per pixel, (H, W) int32: gray values (1 to 16 bits) or palette indices.

    Args:
        path: The PNG.
        size: Expected height and width.

    Raises:
        DataError: The file is missing, corrupt, not a PNG, has several channels, or has another size.
    """
    data, image = _open(path, size)
    if image.mode not in (*_GRAY, "P"):
        raise DataError(
            f"{path} is a PNG of mode {image.mode}; expected one value per pixel: a gray (8 or 16 bits) or palette PNG"
        )
    values = np.asarray(image).astype(np.int32)
    if data[_COLOR_TYPE] == 0 and data[_DEPTH] in (2, 4):
        values //= 255 // (2 ** data[_DEPTH] - 1)  # Pillow rescales these to 0..255
    return values


def read_colors(path: Path, size: tuple[int, int]) -> ImageArray:
    """Return the colors, (H, W, 3) uint8 RGB, with the palette applied and alpha dropped. See `read_values`."""
    _, image = _open(path, size)
    if image.mode in ("I", "I;16"):
        raise DataError(f"{path} is a 16-bit gray PNG; expected 8-bit colors")
    return np.asarray(image.convert("RGB"), np.uint8)


def read_channels(path: Path, size: tuple[int, int]) -> ImageArray:
    """Return the channels of an 8-bit RGB PNG, (H, W, 3) uint8. See `read_values`."""
    data, image = _open(path, size)
    if image.mode != "RGB" or data[_DEPTH] != 8:
        raise DataError(f"{path} is a PNG of mode {image.mode} with {data[_DEPTH]} bits; expected an 8-bit RGB PNG")
    return np.asarray(image, np.uint8)


def read_mask(path: Path, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return the mask of one object, (H, W) bool: the pixels that are neither black nor transparent.

    Raises:
        DataError: As in `read_values`, or these pixels have more than one value.
    """
    _, image = _open(path, size)
    if image.mode in _GRAY and "transparency" not in image.info:
        values = np.asarray(image).astype(np.int32)
    else:
        rgba = np.asarray(image.convert("RGBA")).astype(np.int32)
        values = np.where(rgba[..., 3] > 0, pack(rgba), 0)
    mask = np.asarray(values != 0)
    if mask.any() and (values[mask] != values.max()).any():
        raise DataError(f"{path} contains several nonzero values; expected the mask of one object, one value on 0")
    return mask


def pack(colors: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return the colors (..., 3 or more), 0 to 255 each, as 0xRRGGBB.

    >>> hex(pack(np.array([1, 2, 3], np.int32)))
    '0x10203'
    """
    return np.asarray(65536 * colors[..., 0] + 256 * colors[..., 1] + colors[..., 2], np.int32)


def distinct_values(values: npt.NDArray[Any]) -> tuple[list[int], npt.NDArray[np.intp]]:
    """Return the distinct values, ascending, and for each pixel (H, W) the index of its value.

    Sorts only one value per run of equal pixels: a map has a few thousand runs but about a million pixels.

    >>> distinct_values(np.array([[7, 7], [3, 7]]))
    ([3, 7], array([[1, 1],
           [0, 1]]))
    """
    flat = values.reshape(-1)
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    distinct, owner = np.unique(flat[starts], return_inverse=True)
    return distinct.tolist(), np.repeat(owner, np.diff(starts, append=flat.size)).reshape(values.shape)


def pixels_of(index_of_pixel: npt.NDArray[np.intp], values: int) -> list[int]:
    """Return the number of pixels of each value, given the second result of `distinct_values`.

    >>> pixels_of(np.array([[1, 1], [0, 1]]), 2)
    [1, 3]
    """
    counts: list[int] = np.bincount(index_of_pixel.reshape(-1), minlength=values).tolist()
    return counts


def _open(path: Path, size: tuple[int, int]) -> tuple[bytes, Image.Image]:
    """Return the bytes of a PNG and the decoded image."""
    if not path.exists() and (other := other_format(path)) is not None:
        raise DataError(
            f"the label PNG {path} is missing, but there is {other.name}; expected a PNG, since other formats may "
            "change the values of pixels; export the labels as PNG"
        )
    data = read_bytes(path, "label PNG")
    if data.startswith(b"\x89PNG") and (len(data) < 45 or b"IEND" not in data[-64:]):  # Pillow may accept it
        raise DataError(f"{path} is corrupt or truncated (its end is missing); restore the file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about large images
            image = Image.open(io.BytesIO(data), formats=["PNG"])
        found = (image.height, image.width)
        if found == size:
            image.load()
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not a PNG; expected a label PNG") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} declares an implausible size; restore the file") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is corrupt or truncated ({error}); restore the file") from error
    if found != size:
        raise DataError(
            f"{path} is {found[1]}x{found[0]} but its image is displayed as {size[1]}x{size[0]} (width x height, EXIF "
            "orientation applied); expected equal sizes"
        )
    return data, image
