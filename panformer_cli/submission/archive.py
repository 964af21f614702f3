"""Read a submission zip without unpacking or trusting it."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from panformer_cli.errors import DataError
from panformer_cli.storage.files import name_inside
from panformer_cli.submission.findings import Findings, Problem

MAX_JSON_BYTES = 2**29
"""The 20,000 images of COCO test-dev need about 10 MB, or 50 MB with areas, boxes and names."""

MAX_PNG_BYTES = 2**28
"""An image of 80 megapixels, uncompressed."""

_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError)


class Archive:
    """The files of a zip by name. Nothing is written to disk."""

    def __init__(self, opened: zipfile.ZipFile) -> None:
        self._opened = opened
        self._entries = {entry.filename: entry for entry in opened.infolist() if not entry.is_dir()}

    @property
    def path(self) -> Path:
        return Path(str(self._opened.filename))

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def read(self, name: str) -> bytes:
        """Return the content of an entry, up to the declared size, which was checked.

        Raises:
            DataError: The entry is corrupt.
        """
        try:
            entry = self._entries[name]
            with self._opened.open(entry) as file:
                # Without a size, zipfile would unpack everything before truncating.
                return file.read(entry.file_size)
        except _DAMAGE as error:
            raise DataError(f"{self.path}: the entry {name} is corrupt ({error}); write the zip again") from error


@contextmanager
def open_archive(path: Path, findings: Findings) -> Iterator[Archive | None]:
    """Yield the zip, or None if it is unreadable or unsafe, which is then added to `findings`.

    Raises:
        DataError: The file is missing or its permissions do not allow reading it.
    """
    try:
        opened = zipfile.ZipFile(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; expected a readable zip") from error
    except _DAMAGE as error:
        findings.add(Problem.ZIP_DAMAGED, path.name, f"{path} is corrupt or not a zip ({error}); write it again")
        yield None
        return
    with opened:
        for reason, name in _unsafe_entries(opened, path):
            findings.add(Problem.UNSAFE_ENTRY, name, f"{path}: the entry {name!r} {reason}")
        yield None if findings else Archive(opened)


def _unsafe_entries(opened: zipfile.ZipFile, path: Path) -> Iterator[tuple[str, str]]:
    """Yield the reason and name of each unsafe entry, based on the table of contents."""
    entries = sorted(opened.infolist(), key=lambda entry: entry.filename)
    for name, count in Counter(entry.filename for entry in entries).items():
        if count > 1:
            yield f"appears {count} times; expected unique names", name
    for entry in entries:
        reason = _danger(entry, path)
        if reason:
            yield reason, entry.filename


def _danger(entry: zipfile.ZipInfo, path: Path) -> str | None:
    try:
        name_inside(path.parent, entry.filename, str(path))
    except DataError:
        return "points outside of the target folder; expected a plain relative name"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device; expected a file"
    if entry.flag_bits & 1:
        return "is encrypted; expected a zip without a password"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "uses a compression method that servers may not support; expected stored or deflated"
    limit = MAX_JSON_BYTES if entry.filename.endswith(".json") else MAX_PNG_BYTES
    if entry.file_size > limit:
        return f"unpacks to {entry.file_size} bytes, like a zip bomb; expected at most {limit}"
    return None
