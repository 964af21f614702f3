"""Images and videos in zip archives, which are read in place: nothing is unpacked."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from panformer_cli.data.image_formats import HIDDEN, is_clutter, why_left_out
from panformer_cli.engine.inputs.input_image import MOST_BYTES, MOST_VIDEO_BYTES
from panformer_cli.engine.inputs.videos import is_searched_video
from panformer_cli.errors import DataError
from panformer_cli.reporting import megabytes
from panformer_cli.storage.files import leads_out
from panformer_cli.storage.zip_files import DAMAGE, is_encrypted, is_link_or_device, opened_zip

SUFFIX = ".zip"
MOST_ENTRIES = 1_000_000
_MOST_TOTAL, _MOST_RATIO = 2**31, 200
"""An archive is refused if its images have more bytes than this and more than this many times those of the archive."""

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Methods whose decompression can be limited."""
_LONGEST_NAME = 1000
"""Characters of an entry's name, with folders; file systems allow about 4000 bytes."""
_PIECE = 2**20  # bytes

# Reasons to leave an entry out.
_LINK = "link in an archive"
_LEADS_OUT = "with a name that leads out of the archive"
_TOO_LONG = "with a name that is too long"
_ENCRYPTED = "encrypted (needs a password)"
_METHOD = "in an unsupported compression (unpack the archive)"
_TOO_LARGE = "larger than {} MB"


@dataclass(frozen=True)
class ZipImage:
    """An image, or a video, in an archive.

    Attributes:
        archive: Path of the archive.
        position: Position of the entry in the archive; names can be repeated.
        name: Name of the entry.
    """

    archive: str
    position: int
    name: str

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    @property
    def path(self) -> Path:
        return Path(self.archive, self.name)

    @property
    def identity(self) -> str:
        return f"{os.path.abspath(self.archive)}/{self.position}/{self.name}"  # noqa: PTH100 (follows no links)

    def read_bytes(self) -> bytes:
        content = b"".join(self.pieces())
        if not content:
            raise DataError(f"the image {self} is empty (0 bytes); restore the file")
        return content

    def pieces(self) -> Iterator[bytes]:
        """Yield the content, which has at most the size that the archive states; errors as `read_bytes`."""
        try:
            with open(self.archive, "rb") as file:
                stamp = os.fstat(file.fileno())
            archive = _archive(self.archive, stamp.st_size, stamp.st_mtime_ns)
            with archive.open(_entry(self, archive)) as entry:
                while piece := entry.read(_PIECE):
                    yield piece
        except DAMAGE as error:
            raise DataError(f"{self} is corrupt ({error}); download the archive again") from error
        except OSError as error:
            raise DataError(f"{self} cannot be read: {error.strerror or error}; expected a readable archive") from error


class ArchivedImage(NamedTuple):
    """A file of an archive, and why it is left out; "" for an image or a video."""

    source: ZipImage
    problem: str


def images_in(archive: Path) -> Iterator[ArchivedImage]:
    """Yield the files of an archive in the order of their names, without those of operating systems.

    Raises:
        DataError: The archive is corrupt, has too many entries, or is a zip bomb.
    """
    with opened_zip(archive) as opened:
        entries = opened.infolist()
    _check_sizes(archive, entries)
    for position, entry in sorted(enumerate(entries), key=lambda item: (item[1].filename.split("/"), item[0])):
        parts = entry.filename.split("/")
        if not entry.is_dir() and not any(map(is_clutter, parts)):
            yield ArchivedImage(ZipImage(str(archive), position, entry.filename), _problem(entry))


def _check_sizes(archive: Path, entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MOST_ENTRIES:
        raise DataError(f"{archive} has {len(entries)} entries, expected at most {MOST_ENTRIES}; unpack it yourself")
    total, size = sum(entry.file_size for entry in entries), archive.stat().st_size
    if total > _MOST_TOTAL and total > _MOST_RATIO * size:
        raise DataError(
            f"{archive} has {megabytes(size)} MB and would be {megabytes(total)} MB unpacked, as a zip bomb is; unpack "
            "it yourself if you trust it"
        )


def _problem(entry: zipfile.ZipInfo) -> str:
    """Return why an entry is left out; "" if it is an image or a video."""
    name = Path(entry.filename)
    is_video = is_searched_video(name.name)
    problems = {
        _LINK: is_link_or_device(entry),
        _LEADS_OUT: leads_out(entry.filename),
        _TOO_LONG: len(entry.filename) > _LONGEST_NAME,
        HIDDEN: any(part.startswith(".") for part in name.parts),
    }
    if problem := next((reason for reason, applies in problems.items() if applies), ""):
        return problem
    if not is_video and (problem := why_left_out(name)):
        return problem
    if is_encrypted(entry):
        return _ENCRYPTED
    if entry.compress_type not in _METHODS:
        return _METHOD
    most = MOST_VIDEO_BYTES if is_video else MOST_BYTES
    return _TOO_LARGE.format(megabytes(most)) if entry.file_size > most else ""


@lru_cache(maxsize=4)
def _archive(archive: str, size: int, modified: int) -> zipfile.ZipFile:
    """Return an open archive, which several threads can read. Reading its list of entries for each image is slow."""
    del size, modified  # another file at the same path is opened again
    return zipfile.ZipFile(archive)


def _entry(image: ZipImage, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """Return the entry of an image."""
    entries = archive.infolist()
    if image.position >= len(entries) or entries[image.position].filename != image.name:
        raise DataError(f"{image} is missing; the archive has changed; run the command again")
    return entries[image.position]
