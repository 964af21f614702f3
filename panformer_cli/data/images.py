"""Reading images of common formats as 8-bit RGB."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from panformer_cli.data.image_formats import (
    HEIC_ADVICE,
    PILLOW_ERRORS,
    has_heic,
    has_tiff_alpha,
    is_avif,
    is_heic,
    is_jpeg,
    is_tiff,
    readable_suffixes,
    register_heic,
    tiff_problem,
    tiff_tags,
    unsupported,
    unsupported_format,
)
from panformer_cli.data.opencv import cv2
from panformer_cli.data.quiet import no_warnings
from panformer_cli.data.structures import ImageArray
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.storage.files import missing
from panformer_cli.wording import shown

IMAGE_SUFFIXES = readable_suffixes()
"""Lower-case suffixes of the files that count as images in a folder."""

MOST_PIXELS = 2**28
"""Larger images are not read, unless `PIXELS_VARIABLE` allows it: a small file can declare any size."""
PIXELS_VARIABLE = "PANFORMER_MAX_PIXELS"
"""Environment variable with another limit."""
_OPENCV_PIXELS = 2**30

_pillow_limit = Lock()
_JPEG_END = b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


def read_image(path: Path) -> ImageArray:
    """Return an image as (H, W, 3) uint8 RGB, with its EXIF orientation applied.

    Grayscale is repeated to three channels, CMYK is converted, 16 bits are reduced to 8, and alpha is dropped. Of
    several pages or frames the first one is read.

    Raises:
        DataError: the file is missing, not an image, corrupt or truncated, of a format that is not supported, or has
            more pixels than `most_pixels` allows.
    """
    return decode_image(read_bytes(path, "image"), str(path))


def decode_image(data: bytes, name: str) -> ImageArray:
    """Return the image in the content of a file, as `read_image` does; errors call it `name`.

    Raises:
        DataError: as `read_image`.
    """
    if problem := why_unsupported(data):
        raise DataError(f"{name}: {problem}")
    _check_pixels(name, data)
    image = None if _needs_pillow(data) else decode(data, cv2.IMREAD_COLOR)
    if image is None:
        return _read_with_pillow(name, data)
    _check_whole(name, data)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), np.uint8)


def most_pixels() -> int:
    """Return the largest number of pixels of an image that is read.

    Raises:
        PanformerError: the environment variable `PIXELS_VARIABLE` is not a number, or larger than OpenCV's limit.
    """
    given = os.environ.get(PIXELS_VARIABLE)
    if given is None:
        return MOST_PIXELS
    if not (given.isascii() and given.isdecimal() and 1 <= int(given) <= _OPENCV_PIXELS):
        raise PanformerError(
            f"the environment variable {PIXELS_VARIABLE} is {given!r}; expected the largest number of pixels of an "
            f"image, 1 to {_OPENCV_PIXELS}"
        )
    return int(given)


def read_bytes(path: Path, what: str) -> bytes:
    """Return the content of a file; errors call the file `what`.

    Raises:
        DataError: the file is missing, empty, a folder or not readable.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise missing(path, what) from error
    except OSError as error:
        raise DataError(
            f"the {what} {shown(path)} cannot be read: {error.strerror}; expected a readable file"
        ) from error
    if not data:
        raise DataError(f"the {what} {shown(path)} is empty (0 bytes); restore the file")
    return data


def decode(data: bytes, flags: int) -> ImageArray | None:
    """Return the result of `cv2.imdecode`; None if OpenCV cannot decode the data or rejects its size."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return None if image is None else np.asarray(image, np.uint8)


def why_unsupported(data: bytes) -> str:
    """Return why an image cannot be read although it is whole, and what to do; empty if it can."""
    if is_heic(data) and not has_heic():
        return HEIC_ADVICE
    if name := unsupported_format(data):
        return unsupported(name)
    return tiff_problem(tiff_tags(data)) if is_tiff(data) else ""


def reason_of(error: Exception) -> str:
    """Return the message of an error of the system or of Pillow in one line; its type if it has none."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def has_more_frames(file: Path | bytes) -> bool:
    """Return whether an image file, or the content of one, has several pages or frames.

    `read_image` reads only the first. A JPEG never has several: the additional images in photos of some cameras are
    previews and depth maps.
    """
    try:
        with quiet_open(file) as image:
            return image.format not in ("JPEG", "MPO") and bool(getattr(image, "is_animated", False))
    except (*PILLOW_ERRORS, Image.DecompressionBombError):
        return False


def _check_pixels(name: str, data: bytes) -> None:
    """Raise DataError for an image with more than `most_pixels`, without decoding it."""
    most_pixels()  # its error is a ValueError, as some of Pillow's are
    try:
        with quiet_open(data):
            pass
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} {error}") from error
    except PILLOW_ERRORS:  # reported when it is decoded, if OpenCV cannot read it, either
        pass


def _needs_pillow(data: bytes) -> bool:
    """Return whether OpenCV would read an image differently: it ignores how AVIF is rotated."""
    return is_avif(data) or is_heic(data) or (is_tiff(data) and has_tiff_alpha(data))


def _read_with_pillow(name: str, data: bytes) -> ImageArray:
    """Return an image that OpenCV does not read, as `read_image` does."""
    unreadable = DataError(f"{name} cannot be decoded: it is corrupt or not an image; expected JPEG, PNG or similar")
    if is_jpeg(data) or data.startswith(_PNG_START):  # OpenCV knows these: what it rejects is corrupt
        raise unreadable
    with _pillow_errors(name, unreadable), quiet_open(data) as image:
        return _rgb_of(image, name)


def from_pillow(image: Image.Image, name: str) -> ImageArray:
    """Return an image of Pillow as `read_image` returns one from a file: (H, W, 3) uint8 RGB, a new array.

    Args:
        image: Of any mode with at most 8 bits, or with 16 bits of gray. It may not be loaded yet.
        name: Name of the image in errors.

    Raises:
        DataError: The mode is not supported, or its file is corrupt or truncated.
    """
    if 0 in image.size:
        raise DataError(f"{name} has {image.width}x{image.height} pixels; expected at least one")
    unreadable = DataError(f"{name} cannot be decoded: it is corrupt or not an image; open another file")
    with _pillow_errors(name, unreadable):
        return _rgb_of(image, name)


def _rgb_of(image: Image.Image, name: str) -> ImageArray:
    """Return an image of Pillow as (H, W, 3) uint8 RGB, with its EXIF orientation applied."""
    try:
        upright = ImageOps.exif_transpose(image)
    except PILLOW_ERRORS:  # corrupt EXIF data, as in `image_header`; corrupt pixels are reported below
        upright = image
    if upright.mode.startswith("I;16") or (upright.mode == "I" and image.format == "PNG"):  # as Pillow < 11 reads it
        gray = (np.asarray(upright) >> 8).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if upright.mode in ("I", "F"):
        raise DataError(
            f"{name} has Pillow's mode {upright.mode}, 32 bits per pixel of any range; expected at most 8 bits, or 16 "
            "of gray; scale it to 0..255 and convert it to L or RGB"
        )
    upright.load()  # reports a truncated file before its mode
    try:
        return np.array(upright.convert("RGB"), np.uint8)
    except ValueError as error:  # such as La, gray with premultiplied alpha
        raise DataError(f"{name} has Pillow's mode {upright.mode}, which Pillow cannot convert to RGB") from error


@contextmanager
def quiet_open(source: Path | bytes) -> Iterator[Image.Image]:
    """Open an image file, or the content of one, with Pillow, without its warnings; errors as `PILLOW_ERRORS`.

    Raises:
        DecompressionBombError: it has more than `most_pixels`; the message continues a sentence.
    """
    register_heic()
    with no_warnings, _opened(source) as image:  # Pillow warns about large images and odd metadata
        width, height = image.size
        if width * height > most_pixels():
            raise Image.DecompressionBombError(
                f"declares {width} x {height} pixels, expected at most {most_pixels()} in total; restore the file, or "
                f"set the environment variable {PIXELS_VARIABLE}={width * height} to read it"
            )
        yield image


def _opened(source: Path | bytes) -> Image.Image:
    """Return an image opened with Pillow, whatever its size."""
    with _pillow_limit:  # the limit is a global variable of Pillow, which other code may rely on
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def _pillow_errors(name: str, unreadable: DataError) -> Iterator[None]:
    """Turn the errors of Pillow into a DataError."""
    try:
        yield
    except DataError:  # already explained; it is a ValueError, as are some errors of Pillow
        raise
    except UnidentifiedImageError as error:
        raise unreadable from error
    except PILLOW_ERRORS as error:
        raise _corrupt(name, error) from error


def _check_whole(name: str, data: bytes) -> None:
    """Raise DataError for a truncated file: OpenCV silently fills the missing part with gray, Pillow reports it."""
    end = data[-16:].rstrip(b"\0\r\n ")
    if is_jpeg(data) and end.endswith(_JPEG_END) or data.startswith(_PNG_START) and _PNG_END in end:
        return
    try:
        # OpenCV has decoded formats that Pillow does not know and sizes that Pillow rejects.
        with suppress(UnidentifiedImageError, Image.DecompressionBombError), quiet_open(data) as image:
            image.load()
    except PILLOW_ERRORS as error:
        raise _corrupt(name, error) from error


def _corrupt(name: str, error: Exception) -> DataError:
    return DataError(f"{name} is corrupt or truncated ({reason_of(error)}); restore the file")
