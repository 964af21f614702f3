"""One image to segment: what it is called, and how it is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from panformer_cli.data.images import decode_image, has_more_frames, read_bytes
from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.inputs.ids import ImageId
from panformer_cli.wording import shown

MOST_BYTES = 2**29
"""Largest image file that is read from the web, from an archive or from standard input. Files have no limit."""
MOST_VIDEO_BYTES = 2**32
"""Largest video that is copied from the web or from an archive."""


class ImageSource(Protocol):
    """Where an image comes from. `str` returns its name in messages."""

    @property
    def path(self) -> Path:
        """The image file; for an image in no file, or in an archive, a path by which its id can be found."""
        ...

    @property
    def identity(self) -> str:
        """A text that is equal for two sources if and only if they are the same image file."""
        ...

    def read_bytes(self) -> bytes:
        """Return the content of the image file.

        Raises:
            DataError: It cannot be read; the message names the image.
        """
        ...


@dataclass(frozen=True)
class LocalFile:
    """An image file on this computer.

    Attributes:
        name: Its path. A text, since a million paths take a lot of memory.
    """

    name: str

    def __str__(self) -> str:
        return self.name

    @property
    def path(self) -> Path:
        return Path(self.name)

    @property
    def identity(self) -> str:
        return os.path.abspath(self.name)  # noqa: PTH100 (removes `..`, follows no links)

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
        return shown(self.source)

    def read(self) -> ImageArray:
        """Return the image as (H, W, 3) uint8 RGB, with its EXIF orientation applied.

        Of several pages or frames the first one is read.

        Raises:
            DataError: It is missing, corrupt or not an image, or its format is not supported.
        """
        return self.read_first()[0]

    def read_first(self) -> tuple[ImageArray, bool]:
        """Return the image as `read` does, and whether its file has several pages or frames."""
        data = self.source.read_bytes()
        return decode_image(data, str(self)), has_more_frames(data)
