"""Atomic writes, checksums, locks, and file names that stay inside their folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any

from panformer_cli.errors import DataError, PanformerError, WriteError
from panformer_cli.reporting import Reporter, SilentReporter, megabyte_bar
from panformer_cli.wording import shown

_WINDOWS_LINK_LOOP = 1921
"""ERROR_CANT_RESOLVE_FILENAME, which Python does not translate to ELOOP."""

_SEPARATOR = re.compile(r"[/\\]")
_LEADS_OUT = re.compile(r"[. ]*|.*[/\0].*|.:.*", re.DOTALL)
"""A path component that is empty, a parent (Windows reads `.. ` as `..`), a root (`/`, `//`) or a drive."""

_PIECE = 1 << 20
"""Bytes hashed at a time."""

_SHOWN = 60
"""Characters of an impossible name that are shown."""

_KEPT = 50
"""Characters of a name kept in the temporary name: up to four bytes each, and a name has at most 255 bytes."""


@contextmanager
def atomic_write(path: Path, waits_for_disk: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; at the end, flush the file to disk and rename it to `path`.

    On any error `path` keeps its old content, and the temporary file is deleted.

    Args:
        path: the file to write; missing folders are created.
        waits_for_disk: False leaves the flush to the operating system. For many small files, flushing each one takes
            longer than writing it; a crash of the machine, not of the program, may then leave it corrupt.

    Raises:
        WriteError: the folder cannot be written, or the disk is full; an existing file is unchanged.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if waits_for_disk:
            with open(temporary, "r+b") as written:  # Windows flushes only writable files
                os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        kept = "; the existing file is unchanged" if is_file(path) else ""
        reason = error.strerror or str(error)
        raise WriteError(f"cannot write {path}: {reason}{kept}; free some space or choose another folder") from error
    finally:
        with suppress(OSError):  # it may not exist, or its parent may not be a folder
            temporary.unlink()


_SPACE, _RIGHTS = "free some space or choose another folder", "check its permissions or choose another folder"
_ADVICE = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _RIGHTS,
}
"""What to do after an error of the operating system."""


@contextmanager
def writing(path: Path, advice: str = "") -> Iterator[None]:
    """Turn an OSError into a WriteError that names `path` and ends with `advice`, or with that for the error."""
    try:
        yield
    except OSError as error:
        usual = _ADVICE.get(error.errno or 0, "choose another folder")
        raise WriteError(f"cannot write {path}: {error.strerror or error}; {advice or usual}") from error


def is_file(path: Path) -> bool:
    """Return whether `path` is a file; False if no file can have this name."""
    try:
        return path.is_file()
    except OSError:  # the name is too long
        return False


def check_can_exist(name: str | os.PathLike[str]) -> None:
    """Raise DataError if no file can have this name: it is too long, or it contains a zero byte.

    A user's text can be anything; pathlib raises OSError or ValueError for such a name, even to ask whether it exists.
    """
    reason = ""
    try:
        os.lstat(name)
    except ValueError:
        reason = "it contains a zero byte"
    except OSError as error:
        reason = "it is too long" if error.errno == errno.ENAMETOOLONG else ""
    if reason:
        text = os.fspath(name)
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        raise DataError(f"{shown!r} cannot be the name of a file: {reason}; expected a path, a pattern or an address")


def missing(path: Path, what: str) -> DataError:
    """Return the error for a file that does not exist, `what` such as `image`.

    It names a file whose name differs only in case, which Windows and macOS ignore, or in the Unicode form, which
    looks the same. The usual spellings are tried; listing the folder would take long for many missing files.
    """
    name, suffix = path.name, path.suffix
    stem = name.removesuffix(suffix)
    cases = (name, stem + suffix.lower(), stem + suffix.upper(), name.lower(), name.upper())
    spellings = [unicodedata.normalize(form, case) for case in cases for form in ("NFC", "NFD")]
    found = next((other for other in spellings if is_file(path.with_name(other))), None) if name else None
    if found is None:
        return DataError(f"the {what} {shown(path)} is missing; check the path, or restore the file")
    is_form = unicodedata.normalize("NFC", found) == unicodedata.normalize("NFC", name)
    how = "only in its Unicode form (composed or decomposed accents)" if is_form else "in upper and lower case"
    return DataError(
        f"the {what} {shown(path)} is missing, but there is {found}, whose name differs {how}; expected the same name; "
        "rename one of them"
    )


def resolve_links(path: Path) -> Path:
    """Return `path` as an absolute path without symbolic links; missing components are kept.

    `Path.resolve` is not used: for a loop of links it raises RuntimeError before Python 3.13 and returns a partly
    resolved path since then.

    Raises:
        PanformerError: the links form a loop.
    """
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP or getattr(error, "winerror", None) == _WINDOWS_LINK_LOOP:
            raise PanformerError(
                f"{path}: the symbolic links in this path form a loop; expected links to a file or folder; "
                "remove the wrong link"
            ) from error
    return Path(os.path.realpath(path))


def temporary_path(path: Path) -> Path:
    """Return the temporary path for writing `path`; long names are shortened, since file systems allow 255 bytes."""
    return path.with_name(f".{path.name[:_KEPT]}.{os.getpid()}.tmp")


def temporary_paths(path: Path) -> Iterator[Path]:
    """Yield the temporary paths of all processes; killed processes leave theirs behind."""
    return path.parent.glob(f".{escape(path.name[:_KEPT])}.*.tmp")


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield `path` as an empty folder, and delete it at the end."""
    shutil.rmtree(path, ignore_errors=True)
    try:
        path.mkdir()
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def file_stamp(path: Path) -> list[str | int]:
    """Return path, size and modification time of a file, by which a replaced file is noticed.

    Of the folder of a model they are the total size of its files, and the time of the newest one.
    """
    statuses = [file.stat() for file in content_files(path)]
    sizes, times = [status.st_size for status in statuses], [status.st_mtime_ns for status in statuses]
    return [str(resolve_links(path)), sum(sizes), max(times, default=0)]


def content_files(path: Path) -> list[Path]:
    """Return a file; or, of the folder of a model, its files with settings and weights, sorted by name."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix in (".json", ".safetensors") and file.is_file())


def sha256_of(path: Path, reporter: Reporter | None = None) -> str:
    """Return the SHA-256 of a file, or of the names and content of a model's folder, as 64 hexadecimal digits.

    Args:
        path: the file or the folder.
        reporter: shows a progress bar; None for no bar.
    """
    digest, files = hashlib.sha256(), content_files(path)
    total = sum(file.stat().st_size for file in files)
    with megabyte_bar("Check, MB", total, 0, reporter or SilentReporter()) as bar:
        for name in files:
            if name != path:
                digest.update(f"{name.name}\0{name.stat().st_size}\0".encode())
            with name.open("rb") as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
                    bar.advance(len(piece))
    return digest.hexdigest()


def cache_folder() -> Path:
    """Return the cache folder for downloads and indexes: PANFORMER_HOME or the user's cache folder."""
    from platformdirs import user_cache_path  # few commands need it

    home = os.environ.get("PANFORMER_HOME")
    return Path(home).expanduser().absolute() if home else user_cache_path("panformer", appauthor=False)


def weights_folder() -> Path:
    """Return the cache for weights: `weights` in PANFORMER_HOME, or in the user's cache folder for panformer."""
    return cache_folder() / "weights"


def write_json(path: Path, content: Any, waits_for_disk: bool = True) -> None:
    """Write `content` as JSON, atomically; `waits_for_disk` and errors as `atomic_write`."""
    write_text(path, json.dumps(content), waits_for_disk)


def write_text(path: Path, text: str, waits_for_disk: bool = True) -> None:
    """Write UTF-8 text with its line ends unchanged, atomically; `waits_for_disk` and errors as `atomic_write`."""
    with atomic_write(path, waits_for_disk) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`; at the end, rename it to `path`, which must not exist or be empty.

    On any error the new folder is deleted. If the process is killed, the next call for the same `path` deletes it, but
    not on Windows.

    Raises:
        DataError: `path` is a file or a folder with files.
        PanformerError: the folder cannot be written, or the disk is full.
    """
    path = path.absolute()  # `.` has no name
    if path.exists() and not (path.is_dir() and next(path.iterdir(), None) is None):
        raise DataError(f"{path} already exists; expected a new or empty folder; choose another --out, or delete it")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        temporary, lock = _locked_temporary_folder(path)
    try:
        yield temporary
        with writing(path):
            if path.exists():
                path.rmdir()
            os.replace(temporary, path)
    finally:
        os.close(lock)
        shutil.rmtree(temporary, ignore_errors=True)


def _locked_temporary_folder(path: Path) -> tuple[Path, int]:
    """Create a folder beside `path`; return it, and a descriptor: the folder is locked until that is closed."""
    while True:
        temporary = path.with_name(f".{path.name[:_KEPT]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        temporary.mkdir()
        if sys.platform == "win32":  # folders cannot be opened
            return temporary, os.open(os.devnull, os.O_RDONLY)
        with suppress(FileNotFoundError):  # another process took it for an abandoned one before it was locked
            descriptor = os.open(temporary, os.O_RDONLY)
            if _lock(descriptor, waits=True) is not False and temporary.exists():
                return temporary, descriptor
            os.close(descriptor)


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary folders of killed processes for `path`: those that no process has locked."""
    pattern = re.compile(rf"\.{re.escape(path.name[:_KEPT])}\.[0-9]+(-[0-9a-f]{{8}})?\.tmp")
    for folder in path.parent.iterdir():
        if pattern.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            with suppress(OSError):  # another process removes it, too, or it is not ours
                descriptor = os.open(folder, os.O_RDONLY)
                try:
                    if _lock(descriptor, waits=False):
                        shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(descriptor)


def _lock(descriptor: int, waits: bool) -> bool | None:
    """Lock a folder; return whether it is locked now, and None if the file system has no such locks."""
    import fcntl  # not on Windows

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except OSError as error:
        return False if error.errno in (errno.EACCES, errno.EAGAIN) else None
    return True


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a lock on `folder`, waiting for other processes. Windows and some file systems do not support it."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def name_inside(folder: Path, name: str, where: str) -> Path:
    """Return `folder / name` for an untrusted name from a file.

    Args:
        folder: the folder that the path must stay in.
        name: the relative name.
        where: the file that contains the name, for errors.

    Raises:
        DataError: the name is empty, absolute or invalid, contains `..` or a drive, or leaves `folder` through a
            symbolic link.
    """
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {name!r} is not a valid file name; expected valid Unicode; rename it") from error
    pieces = _pieces_of(name)
    outside = leads_out(name)
    path, has_link = folder, False
    for piece in () if outside else pieces:
        path /= piece
        has_link = has_link or _is_link(path)  # most paths contain no links
    through_link = has_link and _links_lead_out(folder, path)
    if outside or through_link:
        link = ", through a symbolic link" if through_link else ""
        raise DataError(f"{where}: the file name {name!r} points outside {folder}{link}; expected a name inside it")
    return path


def leads_out(name: str) -> bool:
    """Return whether a relative name is empty, absolute or invalid, or contains `..` or a drive."""
    pieces = _pieces_of(name)
    return not pieces or any(map(_LEADS_OUT.fullmatch, pieces))


def _pieces_of(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.replace("\\", "/")).parts if _SEPARATOR.search(name) else (name,)


def _links_lead_out(folder: Path, path: Path) -> bool:
    """Return whether symbolic links between `folder` and `path` lead out of `folder`."""
    try:
        return not resolve_links(path).is_relative_to(resolve_links(folder))
    except PanformerError:  # a loop of links
        return True


def _is_link(path: Path) -> bool:
    with suppress(OSError):  # a missing file or an overlong name fails later, when it is opened
        return stat.S_ISLNK(os.lstat(path).st_mode)
    return False
