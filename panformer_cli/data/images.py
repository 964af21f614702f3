"""Reading images of common formats as 8-bit RGB."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray
from panformer_cli.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
"""Lower-case suffixes of the files that count as images in a folder."""

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


def read_image(path: Path) -> ImageArray:
    """Return an image as (H, W, 3) uint8 RGB, with its EXIF orientation applied.

    Grayscale is repeated to three channels, CMYK is converted, 16 bits are reduced to 8, and alpha is dropped.

    Raises:
        DataError: the file is missing, not an image, corrupt or truncated.
    """
    data = read_bytes(path, "image")
    image = decode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path} cannot be decoded: it is corrupt or not an image; expected JPEG, PNG or similar")
    _check_whole(path, data)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), np.uint8)


def read_bytes(path: Path, what: str) -> bytes:
    """Return the content of a file; errors call the file `what`.

    Raises:
        DataError: the file is missing, empty, a folder or not readable.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"the {what} {path} is missing; check the path, or restore the file") from error
    except OSError as error:
        raise DataError(f"the {what} {path} cannot be read: {error.strerror}; expected a readable file") from error
    if not data:
        raise DataError(f"the {what} {path} is empty (0 bytes); restore the file")
    return data


def decode(data: bytes, flags: int) -> ImageArray | None:
    """Return the result of `cv2.imdecode`; None if OpenCV cannot decode the data or rejects its size."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return None if image is None else np.asarray(image, np.uint8)


def _check_whole(path: Path, data: bytes) -> None:
    """Raise DataError for a truncated file: OpenCV silently fills the missing part with gray, Pillow reports it."""
    end = data[-16:].rstrip(b"\0\r\n ")
    if data.startswith(_JPEG_START) and end.endswith(_JPEG_END) or data.startswith(_PNG_START) and _PNG_END in end:
        return
    try:
        # OpenCV has decoded formats that Pillow does not know and sizes that Pillow rejects.
        with suppress(UnidentifiedImageError, Image.DecompressionBombError), Image.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path} is corrupt or truncated ({error}); restore the file") from error
