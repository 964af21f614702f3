"""The size and EXIF orientation of an image, read without decoding its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from panformer_cli.data.image_formats import PILLOW_ERRORS, tiff_problem
from panformer_cli.data.images import decode, quiet_open, read_bytes, reason_of, why_unsupported
from panformer_cli.data.opencv import cv2
from panformer_cli.errors import DataError
from panformer_cli.storage.files import missing

_EXIF_ORIENTATION, _ROTATED = 0x0112, (5, 6, 7, 8)


@dataclass(frozen=True)
class ImageHeader:
    """The header of an image file.

    Attributes:
        stored: height and width of the pixels in the file.
        orientation: EXIF orientation 1..8; 1 is as stored, 5 to 8 are rotated by 90 degrees.
    """

    stored: tuple[int, int]
    orientation: int = 1

    @property
    def shown(self) -> tuple[int, int]:
        """Height and width with the orientation applied, as `images.read_image` returns the image."""
        height, width = self.stored
        return (width, height) if self.orientation in _ROTATED else (height, width)


def read_header(path: Path, data: bytes | None = None) -> ImageHeader:
    """Read the header of an image.

    Args:
        path: the file.
        data: its content, if already read.

    Raises:
        DataError: the file is missing, cannot be read, is corrupt, is not an image, or declares an implausible size.
    """
    try:
        with quiet_open(path if data is None else data) as image:
            if isinstance(image, TiffImagePlugin.TiffImageFile) and (problem := tiff_problem(image.tag_v2)):
                raise DataError(f"{path}: {problem}")
            return ImageHeader(_stored_size(image), _orientation(image))
    except FileNotFoundError as error:
        raise missing(path, "image") from error
    except UnidentifiedImageError:
        return _decoded(path, read_bytes(path, "image") if data is None else data)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} declares an implausible size; restore the file") from error
    except PILLOW_ERRORS as error:
        raise DataError(f"the image {path} cannot be read: {reason_of(error)}; restore the file") from error


def _decoded(path: Path, data: bytes) -> ImageHeader:
    """Return the header of an image that Pillow does not know, from its pixels."""
    if problem := why_unsupported(data):
        raise DataError(f"{path}: {problem}")
    image = decode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path} is not an image in a known format; restore the file")
    return ImageHeader((image.shape[0], image.shape[1]))


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Return height and width as stored; Pillow swaps those of a rotated TIFF."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2[TiffImagePlugin.IMAGELENGTH]), int(image.tag_v2[TiffImagePlugin.IMAGEWIDTH])
    return image.height, image.width


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the whole image to find it
    try:
        number = image.getexif().get(_EXIF_ORIENTATION, 1)
    except PILLOW_ERRORS:  # OpenCV reads an image with corrupt EXIF data as stored
        return 1
    return number if number in range(1, 9) else 1
