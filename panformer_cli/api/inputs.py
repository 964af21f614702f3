"""What a model can be called with: one image in any of its forms."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy.typing as npt
import torch
from PIL import Image

from panformer_cli.api.arrays import ColorOrder, image_of, is_array
from panformer_cli.api.reporters import LOGGER
from panformer_cli.data.images import decode_image
from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.inputs import archives, image_info, lists
from panformer_cli.engine.inputs.find import find_images
from panformer_cli.engine.inputs.input_image import InputImage, LocalFile
from panformer_cli.engine.inputs.videos import is_video
from panformer_cli.engine.inputs.web import is_address, web_image
from panformer_cli.errors import DataError
from panformer_cli.storage.files import check_can_exist

ImageLike: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | npt.NDArray[Any] | torch.Tensor
)
"""One image: a path or URL as text or `Path`; the content of an image file, as bytes or as a binary file; an image of
Pillow, an array or a tensor."""


SEVERAL = (archives.SUFFIX, image_info.SUFFIX, lists.SUFFIX)
"""Suffixes of files that contain or list images."""

NO_RESULTS = Path(os.devnull)
"""Where no input can be: results are not written while images are found."""


class NamedImage(NamedTuple):
    """An image that was read.

    Attributes:
        image: (H, W, 3) uint8 RGB, a new array.
        source: Its path or URL as it was passed; None for an image in memory.
    """

    image: ImageArray
    source: str | None


def is_one_image(value: object) -> bool:
    """Return whether a value is one image, and not several of them."""
    return isinstance(value, (str, os.PathLike)) or _is_content(value) or is_array(value)


def read_image_like(value: object, name: str, color: ColorOrder) -> NamedImage:
    """Return an image in any of its forms.

    Args:
        value: The image, an `ImageLike`.
        name: Name in errors of an image in memory, such as `image 3`.
        color: Order of the channels of arrays and tensors.

    Raises:
        DataError: It cannot be read, or it is not an image.
    """
    if isinstance(value, (str, os.PathLike)):
        source = os.fsdecode(value)
        return NamedImage(_read_file(source), source)
    if _is_content(value):
        return NamedImage(decode_image(_content(value, name), name), None)
    if is_array(value):
        return NamedImage(image_of(value, name, color), None)
    raise DataError(
        f"{name} is a {type(value).__name__}; expected a path, a URL, an image of Pillow, an array, a tensor or the "
        "content of an image file"
    )


def _is_content(value: object) -> bool:
    return isinstance(value, (bytes, bytearray, memoryview)) or hasattr(value, "read")


def read_or_error(value: object, name: str, color: ColorOrder) -> NamedImage | DataError:
    """Return an image as `read_image_like`, or its error, to be raised in the place of its result."""
    try:
        return read_image_like(value, name, color)
    except DataError as error:
        return error


def find_named(inputs: Sequence[str]) -> Iterator[NamedImage | DataError]:
    """Yield the images of files, folders, patterns, archives, lists and addresses, as `panformer predict` finds them.

    An image that cannot be read gives its error instead.

    Raises:
        DataError: An input does not exist or has no images.
    """
    found = find_images(inputs, NO_RESULTS)
    for note in found.notes:
        LOGGER.info("%s", note)
    return map(_read_found, found.images)


def _read_found(image: InputImage) -> NamedImage | DataError:
    try:
        return NamedImage(image.read(), str(image.source))
    except DataError as error:
        return error


def without_errors(images: Iterable[NamedImage | DataError]) -> Iterator[NamedImage]:
    """Yield the images that could be read; the errors of the others are logged as warnings."""
    for image in images:
        if isinstance(image, DataError):
            LOGGER.warning("%s", image)
        else:
            yield image


def _content(value: Any, name: str) -> bytes:
    """Return the content of an image file."""
    data = value.read() if hasattr(value, "read") else value
    if isinstance(data, str):
        raise DataError(f"{name} is a file opened as text; open it with mode 'rb'")
    if not data:
        raise DataError(f"{name} has no bytes; pass the content of an image file (seek to its beginning first)")
    return bytes(data)


def _read_file(source: str) -> ImageArray:
    if is_address(source):
        return decode_image(web_image(source).read_bytes(), source)
    check_can_exist(source)
    path = Path(source)
    if path.is_dir() or path.suffix.lower() in SEVERAL or (glob.has_magic(source) and not path.exists()):
        raise DataError(f"{source} can have several images; iterate over them with `model.stream({source!r})`")
    if is_video(path.name):
        raise DataError(f"{source} is a video; iterate over its frames with `model.track({source!r})`")
    return decode_image(LocalFile(source).read_bytes(), source)
