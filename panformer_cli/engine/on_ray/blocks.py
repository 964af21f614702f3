"""Blocks: images that one actor predicts together, and whose results are one file, named by its images."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from panformer_cli.engine.inputs.input_image import InputImage

FOLDER = "predictions"
"""The folder of the files, inside the folder of results."""
_NAME = re.compile(r"part-[0-9]{8,}-[0-9a-f]{12}\.parquet")
_TEMPORARY = re.compile(r"\.part-.*\.tmp")


@dataclass(frozen=True)
class Block:
    """Images whose results are one file.

    Attributes:
        name: Name of the file: the position of the first image, and a digest of all images. So a repeated attempt
            replaces the file of an earlier one, and two blocks never have the same file.
        images: The images.
    """

    name: str
    images: tuple[InputImage, ...]

    def to_row(self) -> dict[str, str | bytes]:
        """Return the block as a row of a Ray data set: the images are bytes, not objects, whose size Ray can count."""
        return {"name": self.name, "images": pickle.dumps(self.images)}

    @classmethod
    def from_row(cls, name: str, images: bytes) -> Block:
        return cls(name, pickle.loads(images))


def blocks_of(images: Sequence[InputImage], size: int) -> Iterator[Block]:
    """Yield blocks of `size` images, in order; the last one can be smaller."""
    for first in range(0, len(images), size):
        part = tuple(images[first : first + size])
        digest = hashlib.sha256()
        for image in part:
            digest.update(f"{image.source.identity}\0{image.id}\0{image.name}\n".encode(errors="surrogateescape"))
        yield Block(f"part-{first:08d}-{digest.hexdigest()[:12]}.parquet", part)


def files_in(folder: Path) -> Iterator[Path]:
    """Yield the files of blocks in a folder."""
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def remove_unfinished(folder: Path) -> None:
    """Delete the temporary files of actors that were killed."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)
