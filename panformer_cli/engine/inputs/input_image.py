"""One image to segment: what it is called, and how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from panformer_cli.data.images import decode_image, read_bytes
from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.inputs.ids import ImageId


class ImageSource(Protocol):
    """Where an image comes from. `str` returns its name in messages."""

    @property
    def path(self) -> Path:
        """The file that the image is in or, for an image that is in no file, a path with the image's file name."""
        ...

    def read_bytes(self) -> bytes:
        """Return the content of the image file.

        Raises:
            DataError: it cannot be read; the message names the image.
        """
        ...


@dataclass(frozen=True)
class LocalFile:
    """An image file of this computer."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def read_bytes(self) -> bytes:
        return read_bytes(self.path, "image")


@dataclass(frozen=True)
class InputImage:
    """An image to segment. `str` returns its name in messages.

    Attributes:
        source: Where its file is.
        id: Id in the JSON.
        name: Name of the files in the results, a relative path that is unique without its suffix.
        file_name: File name in the JSON: relative to its input, or `name` if several images have the same.
    """

    source: ImageSource
    id: ImageId
    name: str
    file_name: str

    def __str__(self) -> str:
        return str(self.source)

    def read(self) -> ImageArray:
        """Return the image as (H, W, 3) uint8 RGB, with its EXIF orientation applied.

        Of several pages or frames the first one is read.

        Raises:
            DataError: It is missing, corrupt or not an image, or its format is not supported.
        """
        return decode_image(self.source.read_bytes(), str(self))
