"""Unpacking a downloaded zip without trusting it.

Nothing leaves the folder that it is unpacked into, links are refused, the space is checked before the first byte, and
the result appears whole, by a rename, or not at all.
"""

from __future__ import annotations

import lzma
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from panformer_cli.errors import DataError, PanformerError
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import name_inside

SPARE_BYTES = 64 * 2**20
"""What must stay free on the disk after unpacking, for file system overhead and other programs."""

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
"""Those of every Python version: 3.14 also knows Zstandard, whose errors are others."""

_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError)
_Entries = Sequence[zipfile.ZipInfo]


def unpack_folder(archive: Path, target: Path, reporter: Reporter) -> None:
    """Unpack the folder that `archive` holds so that its files lie directly in `target`, which must not exist yet.

    The files may be in a folder of that name (`val2017/a.jpg` for the target `.../val2017`, as COCO packs them), in
    one below others (`annotations/val2017/a.jpg`), or at the top of the archive.

    Raises:
        DataError: the archive is damaged, encrypted, holds unsafe names or links, or no such folder.
        PanformerError: too little disk space, or the place cannot be written.
    """
    with _opened(archive) as opened, temporary_folder(target.parent, archive) as temporary:
        content = temporary / "content"
        _extract(opened, _files_of(opened), content, reporter)
        folder = next(
            (path for path in sorted(content.rglob("*")) if path.name == target.name and path.is_dir()), content
        )
        if not any(path.is_file() for path in folder.iterdir()):
            raise DataError(f"{archive} holds no files in a folder {target.name}; expected {target.name}/<files>")
        folder.rename(target)


def unpack_files(archive: Path, names: Sequence[str], target: Path, reporter: Reporter) -> list[Path]:
    """Unpack the entries called `names` (without their folders) flat into the existing folder `target`.

    Names that the archive lacks are left out. Returns the files written; errors as `unpack_folder`.
    """
    with _opened(archive) as opened, temporary_folder(target, archive) as temporary:
        wanted = [entry for entry in _files_of(opened) if _base_name(entry) in names]
        unpacked = _extract(opened, wanted, temporary / "content", reporter)
        return [path.replace(target / path.name) for path in unpacked]


def names_in(archive: Path) -> list[str]:
    """Names of the files in `archive`, without their folders. DataError where it is no readable zip."""
    with _opened(archive) as opened:
        return [_base_name(entry) for entry in _files_of(opened)]


@contextmanager
def temporary_folder(parent: Path, archive: Path) -> Iterator[Path]:
    """A new folder in `parent`, removed at the end; OSErrors in the body become a PanformerError about `archive`."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{archive.stem}.", dir=parent) as name:
            yield Path(name)
    except OSError as error:
        reason = error.strerror or str(error)
        raise PanformerError(
            f"cannot unpack {archive} into {parent}: {reason}; make the folder writable or unpack the zip yourself"
        ) from error


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; whatever shows it to be damaged, here or while its entries are read, becomes one DataError."""
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except _DAMAGE as error:
        raise DataError(f"{archive} is damaged or not a zip ({error}); download it again") from error
    except OSError as error:
        raise DataError(f"cannot read {archive}: {error.strerror or error}; expected a readable zip") from error


def _files_of(opened: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The file entries, after every name and kind was checked. macOS adds `__MACOSX/`, which is left out."""
    entries = [entry for entry in opened.infolist() if not entry.filename.startswith("__MACOSX/")]
    for entry in entries:
        _check(entry, Path(str(opened.filename)))
    if len({entry.filename for entry in entries}) != len(entries):
        raise zipfile.BadZipFile("it holds a name more than once")
    return [entry for entry in entries if not entry.is_dir()]


def _check(entry: zipfile.ZipInfo, archive: Path) -> None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError(f"{archive}: the entry {entry.filename!r} is a link or a device; nothing was unpacked")
    if entry.flag_bits & 1:
        raise DataError(f"{archive}: the entry {entry.filename!r} is encrypted; expected a zip without a password")
    if entry.compress_type not in _METHODS:
        raise DataError(
            f"{archive}: the entry {entry.filename!r} is compressed by method {entry.compress_type}, which is not read "
            "here; expected stored or deflated; unpack the zip yourself"
        )
    name_inside(archive.parent, entry.filename, str(archive))


def _base_name(entry: zipfile.ZipInfo) -> str:
    return entry.filename.rsplit("/", 1)[-1]


def _extract(opened: zipfile.ZipFile, entries: _Entries, content: Path, reporter: Reporter) -> list[Path]:
    """Write `entries` below the new folder `content`; returns the files in the order of `entries`."""
    content.mkdir()
    archive = Path(str(opened.filename))
    written = []
    _check_space(archive, sum(entry.file_size for entry in entries), content)
    with reporter.progress(f"unpacking {archive.name}", len(entries)) as progress:
        for entry in entries:
            path = name_inside(content, entry.filename, str(archive))
            path.parent.mkdir(parents=True, exist_ok=True)
            # zipfile stops at the size that the entry declares, so no more is written than was checked.
            with opened.open(entry) as source, path.open("xb") as file:
                shutil.copyfileobj(source, file, 2**20)
            written.append(path)
            progress.advance()
    return written


def _check_space(archive: Path, needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise PanformerError(
            f"unpacking {archive} needs {needed / 1e9:.2f} GB but {folder.parent.parent} has {free / 1e9:.2f} GB free; "
            "free some space, or unpack it to another disk and link the folder here"
        )
