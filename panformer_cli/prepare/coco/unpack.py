"""Unpack a downloaded zip without trusting it.

No file is written outside of the target folder, links are rejected, the free space is checked first, and the result
appears atomically by a rename.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from panformer_cli.errors import DataError, PanformerError
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import name_inside
from panformer_cli.storage.zip_files import METHODS, is_encrypted, is_link_or_device, opened_zip

SPARE_BYTES = 64 * 2**20
"""Space to leave free after unpacking, for file system overhead and other programs."""

_Entries = Sequence[zipfile.ZipInfo]


def unpack_folder(archive: Path, target: Path, reporter: Reporter) -> None:
    """Unpack the folder in `archive` so that its files are directly in `target`, which must not exist yet.

    In the archive, the files may be in a folder of that name (`val2017/a.jpg` for the target `.../val2017`, as in
    COCO), in a nested one (`annotations/val2017/a.jpg`), or at the top.

    Raises:
        DataError: The archive is corrupt or encrypted, contains unsafe names or links, or has no such folder.
        PanformerError: There is not enough disk space, or the target cannot be written.
    """
    with opened_zip(archive) as opened, temporary_folder(target.parent, archive) as temporary:
        content = temporary / "content"
        _extract(opened, _files_of(opened), content, reporter)
        folder = next(
            (path for path in sorted(content.rglob("*")) if path.name == target.name and path.is_dir()), content
        )
        if not any(path.is_file() for path in folder.iterdir()):
            raise DataError(f"{archive} has no files in a folder {target.name}; expected {target.name}/<files>")
        folder.rename(target)


def unpack_files(archive: Path, names: Sequence[str], target: Path, reporter: Reporter) -> list[Path]:
    """Unpack the entries called `names` (ignoring their folders) directly into the existing folder `target`.

    Ignores names that the archive does not contain. Returns the written files. Raises as `unpack_folder`.
    """
    with opened_zip(archive) as opened, temporary_folder(target, archive) as temporary:
        entries = [entry for entry in _files_of(opened) if _base_name(entry) in names]
        unpacked = _extract(opened, entries, temporary / "content", reporter)
        return [path.replace(target / path.name) for path in unpacked]


def names_in(archive: Path) -> list[str]:
    """Return the names of the files in `archive`, without their folders. Raises a DataError if it is unreadable."""
    with opened_zip(archive) as opened:
        return [_base_name(entry) for entry in _files_of(opened)]


@contextmanager
def temporary_folder(parent: Path, archive: Path) -> Iterator[Path]:
    """Yield a temporary folder in `parent`; OSErrors in the body become a PanformerError about `archive`."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{archive.stem}.", dir=parent) as name:
            yield Path(name)
    except OSError as error:
        reason = error.strerror or str(error)
        raise PanformerError(
            f"cannot unpack {archive} into {parent}: {reason}; make the folder writable or unpack the zip yourself"
        ) from error


def _files_of(opened: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the file entries after checking all names and types. Ignores macOS's `__MACOSX/`."""
    entries = [entry for entry in opened.infolist() if not entry.filename.startswith("__MACOSX/")]
    for entry in entries:
        _check(entry, Path(str(opened.filename)))
    if len({entry.filename for entry in entries}) != len(entries):
        raise zipfile.BadZipFile("it contains a name more than once")
    return [entry for entry in entries if not entry.is_dir()]


def _check(entry: zipfile.ZipInfo, archive: Path) -> None:
    if is_link_or_device(entry):
        raise DataError(f"{archive}: the entry {entry.filename!r} is a link or a device; nothing was unpacked")
    if is_encrypted(entry):
        raise DataError(f"{archive}: the entry {entry.filename!r} is encrypted; expected a zip without a password")
    if entry.compress_type not in METHODS:
        raise DataError(
            f"{archive}: the entry {entry.filename!r} uses the unsupported compression method {entry.compress_type}; "
            "expected stored or deflated; unpack the zip yourself"
        )
    name_inside(archive.parent, entry.filename, str(archive))


def _base_name(entry: zipfile.ZipInfo) -> str:
    return entry.filename.rsplit("/", 1)[-1]


def _extract(opened: zipfile.ZipFile, entries: _Entries, content: Path, reporter: Reporter) -> list[Path]:
    """Write `entries` to the new folder `content` and return the files in the order of `entries`."""
    content.mkdir()
    archive = Path(str(opened.filename))
    written = []
    _check_space(archive, sum(entry.file_size for entry in entries), content)
    with reporter.progress(f"unpacking {archive.name}", len(entries)) as progress:
        for entry in entries:
            path = name_inside(content, entry.filename, str(archive))
            path.parent.mkdir(parents=True, exist_ok=True)
            # zipfile stops at the declared size, so no more is written than was checked.
            with opened.open(entry) as source, path.open("xb") as file:
                shutil.copyfileobj(source, file, 2**20)
            written.append(path)
            progress.advance()
    return written


def _check_space(archive: Path, needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise PanformerError(
            f"unpacking {archive} needs {needed / 1e9:.2f} GB but {folder.parent.parent} has only {free / 1e9:.2f} GB "
            "free; free some space, or unpack it to another disk and link the folder here"
        )
