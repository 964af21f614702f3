"""PNGs that people label with, of whatever kind their tool writes: numbers, colours, or a mask of one object."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from panformer_cli.data.images import read_bytes
from panformer_cli.data.structures import IdMap, ImageArray
from panformer_cli.errors import DataError

_GRAY = ("1", "L", "I", "I;16")
_DEPTH, _COLOUR_TYPE = 24, 25
"""Where the header of a PNG has the bits of a value and the kind of colour; 0 is gray."""


def read_values(path: Path, size: tuple[int, int]) -> IdMap:
    """One value a pixel, (H, W): of a gray PNG (1 to 16 bits) its values, of a palette PNG the palette's indices.

    size: height and width that are expected.

    Raises:
        DataError: the file is missing, damaged, no PNG, has several channels, or is of another size.
    """
    data, image = _open(path, size)
    if image.mode not in (*_GRAY, "P"):
        raise DataError(
            f"{path} is a PNG of mode {image.mode}; expected one value a pixel: a gray (8 or 16 bits) or palette PNG"
        )
    values = np.asarray(image).astype(np.int32)
    if data[_COLOUR_TYPE] == 0 and data[_DEPTH] in (2, 4):
        values //= 255 // (2 ** data[_DEPTH] - 1)  # Pillow stretches these to 0..255
    return values


def read_colors(path: Path, size: tuple[int, int]) -> ImageArray:
    """The colours, (H, W, 3) uint8 RGB: gray repeated, a palette looked up, alpha dropped. Else as `read_values`."""
    _, image = _open(path, size)
    if image.mode in ("I", "I;16"):
        raise DataError(f"{path} is a gray PNG of 16 bits; expected colours of 8 bits")
    return np.asarray(image.convert("RGB"), np.uint8)


def read_channels(path: Path, size: tuple[int, int]) -> ImageArray:
    """Three numbers a pixel, (H, W, 3) uint8, of a PNG that is 8-bit RGB and nothing else. Else as `read_values`."""
    data, image = _open(path, size)
    if image.mode != "RGB" or data[_DEPTH] != 8:
        raise DataError(f"{path} is a PNG of mode {image.mode} and {data[_DEPTH]} bits; expected an 8-bit RGB PNG")
    return np.asarray(image, np.uint8)


def read_mask(path: Path, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """One object, (H, W) bool: where a PNG of any kind is neither black nor transparent.

    Raises:
        DataError: as `read_values`, and where such pixels are of more than one value.
    """
    _, image = _open(path, size)
    if image.mode in _GRAY and "transparency" not in image.info:
        values = np.asarray(image).astype(np.int32)
    else:
        rgba = np.asarray(image.convert("RGBA")).astype(np.int32)
        values = np.where(rgba[..., 3] > 0, pack(rgba), 0)
    mask = np.asarray(values != 0)
    if mask.any() and (values[mask] != values.max()).any():
        raise DataError(f"{path} holds several values beside 0; expected a mask of one object, one value on 0")
    return mask


def pack(colors: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """0xRRGGBB of colours (..., 3 or more) of 0 to 255 each.

    >>> hex(pack(np.array([1, 2, 3], np.int32)))
    '0x10203'
    """
    return np.asarray(65536 * colors[..., 0] + 256 * colors[..., 1] + colors[..., 2], np.int32)


def distinct_values(values: npt.NDArray[Any]) -> tuple[list[int], npt.NDArray[np.intp]]:
    """Distinct values, ascending, and for every pixel (H, W) the position of its own among them.

    Only one value of every run of equal ones is sorted: there are some thousand runs, and a million pixels.

    >>> distinct_values(np.array([[7, 7], [3, 7]]))
    ([3, 7], array([[1, 1],
           [0, 1]]))
    """
    flat = values.reshape(-1)
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    distinct, owner = np.unique(flat[starts], return_inverse=True)
    return distinct.tolist(), np.repeat(owner, np.diff(starts, append=flat.size)).reshape(values.shape)


def _open(path: Path, size: tuple[int, int]) -> tuple[bytes, Image.Image]:
    """The bytes of a PNG, and the PNG decoded."""
    data = read_bytes(path, "label PNG")
    if data.startswith(b"\x89PNG") and (len(data) < 45 or b"IEND" not in data[-64:]):  # Pillow may not mind
        raise DataError(f"{path} is corrupt or truncated: it has no end; restore the file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images
            image = Image.open(io.BytesIO(data), formats=["PNG"])
        found = (image.height, image.width)
        if found == size:
            image.load()
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is no PNG; expected a label PNG") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} declares a size that no usual image has; restore the file") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is corrupt or truncated ({error}); restore the file") from error
    if found != size:
        raise DataError(
            f"{path} is {found[1]}x{found[0]} but its picture is shown as {size[1]}x{size[0]} (width x height, EXIF "
            "orientation applied); expected equal sizes"
        )
    return data, image
