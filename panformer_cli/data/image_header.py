"""The size of an image and how it is to be turned, without decoding its pixels."""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from panformer_cli.errors import DataError

_EXIF_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says before its pixels.

    stored: height and width of the pixels in the file.
    orientation: EXIF's number 1..8 for how the picture is shown; 1 as stored, 5 to 8 turned by a quarter.
    """

    stored: tuple[int, int]
    orientation: int = 1

    @property
    def shown(self) -> tuple[int, int]:
        """Height and width with the orientation applied, as `images.read_image` gives the image."""
        height, width = self.stored
        return (width, height) if self.orientation in _TURNED else (height, width)


def read_header(path: Path, data: bytes | None = None) -> ImageHeader:
    """Read the header of an image.

    data: the content of the file, where it has been read already.

    Raises:
        DataError: the file is missing, cannot be read, is no image, or declares a senseless size.
    """
    try:
        with warnings.catch_warnings(), Image.open(path if data is None else BytesIO(data)) as image:
            warnings.simplefilter("ignore")  # Pillow warns of large images; whoever decodes them may refuse
            return ImageHeader((image.height, image.width), _orientation(image))
    except FileNotFoundError as error:
        raise DataError(f"the image {path} is missing; check the path, or restore the file") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is no image that can be recognised; restore the file") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} declares a size that no usual image has; restore the file") from error
    except OSError as error:
        raise DataError(f"the image {path} cannot be read: {error.strerror or error}; restore the file") from error


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the whole image in search of it
    try:
        number = image.getexif().get(_EXIF_ORIENTATION, 1)
    except (SyntaxError, ValueError, struct.error):  # OpenCV shows an image with damaged EXIF data as stored
        return 1
    return number if number in range(1, 9) else 1
