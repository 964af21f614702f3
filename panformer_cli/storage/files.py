"""Writing without losing anything, and names that stay where they belong."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from panformer_cli.errors import DataError, PanformerError
from panformer_cli.reporting import Reporter, SilentReporter, megabyte_bar

_WINDOWS_LINKS_IN_CIRCLE = 1921
"""ERROR_CANT_RESOLVE_FILENAME, which Python does not translate to ELOOP."""

_SEPARATOR = re.compile(r"[/\\]")
_LEADS_OUT = re.compile(r"[. ]*|.*[/\0].*|.:.*", re.DOTALL)
"""A piece of a name that is empty, climbs (Windows takes `.. ` for `..`), is a root (`/`, `//`) or names a drive."""

_PIECE = 1 << 20
"""Bytes that are hashed at a time."""

_KEPT = 50
"""Characters of a name that the temporary one keeps: of up to four bytes each, where a name has 255 at most."""


@contextmanager
def atomic_write(path: Path, waits_for_disk: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`: filled by the caller, flushed to disk and renamed to `path` at the end.

    waits_for_disk: False leaves the flushing to the system. Of many files that another file vouches for, each would
        take longer to be flushed than to be made; a failure of the machine, not of the program, may then damage it.

    Whatever goes wrong, `path` is the old file or the whole new one, and the temporary file is gone.

    Raises:
        PanformerError: the folder cannot be written, or the disk is full; an old file at `path` is untouched.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if waits_for_disk:
            with open(temporary, "r+b") as written:  # Windows flushes only what may be written
                os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        kept = "; the file that was there is unchanged" if is_file(path) else ""
        reason = error.strerror or str(error)
        raise PanformerError(
            f"cannot write {path}: {reason}{kept}; free some space or choose another folder"
        ) from error
    finally:
        with suppress(OSError):  # it may never have been made: a missing file, or a parent that is no folder
            temporary.unlink()


@contextmanager
def writing(path: Path, advice: str = "free some space or choose another folder") -> Iterator[None]:
    """Turn an OSError into a PanformerError that names `path` and ends with `advice`."""
    try:
        yield
    except OSError as error:
        raise PanformerError(f"cannot write {path}: {error.strerror or error}; {advice}") from error


def is_file(path: Path) -> bool:
    """Whether there is such a file; False, too, where no file can be called so."""
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def resolve_links(path: Path) -> Path:
    """Return `path` as an absolute path without symbolic links; parts that do not exist are kept as they are.

    `Path.resolve` is not used: for links in a circle it raises RuntimeError before Python 3.13, and since then it
    returns a path that was not followed to its end.

    Raises:
        PanformerError: the links form a circle.
    """
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP or getattr(error, "winerror", None) == _WINDOWS_LINKS_IN_CIRCLE:
            raise PanformerError(
                f"{path}: the symbolic links in this path form a circle; expected links that lead to a file or folder; "
                "remove the link that is wrong"
            ) from error
    return Path(os.path.realpath(path))


def temporary_path(path: Path) -> Path:
    """Where this process fills what is to become `path`; of a long name it keeps a part, for disks take 255 bytes."""
    return path.with_name(f".{path.name[:_KEPT]}.{os.getpid()}.tmp")


def temporary_paths(path: Path) -> Iterator[Path]:
    """Those of all processes, which remain where one was killed."""
    return path.parent.glob(f".{escape(path.name[:_KEPT])}.*.tmp")


def sha256_of(path: Path, reporter: Reporter | None = None) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits.

    Args:
        path: the file.
        reporter: shows a progress bar; None for no bar.
    """
    digest = hashlib.sha256()
    total = path.stat().st_size
    with path.open("rb") as file, megabyte_bar("Check, MB", total, 0, reporter or SilentReporter()) as bar:
        while piece := file.read(_PIECE):
            digest.update(piece)
            bar.advance(len(piece))
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where what can be had again is kept: PANFORMER_HOME, or the user's cache folder for panformer."""
    from platformdirs import user_cache_path  # only few commands need it

    home = os.environ.get("PANFORMER_HOME")
    return Path(home).expanduser().absolute() if home else user_cache_path("panformer", appauthor=False)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON, atomically; errors as `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Waits for other processes that are in here with this folder; Windows and some disks cannot."""
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


def lock_file(path: Path) -> BinaryIO:
    """Return `path`, open and locked until it is closed. Windows and some file systems have no such locks.

    Raises:
        PanformerError: another process holds the lock.
    """
    file = path.open("ab")
    if sys.platform == "win32":
        return file
    import fcntl

    try:  # a lock of the process, which its children do not inherit
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.close()
            raise PanformerError(
                f"another process is writing {path.parent}; expected one at a time; wait for it to finish, or choose "
                "another --out"
            ) from error
    return file


def name_inside(folder: Path, name: str, where: str) -> Path:
    """`folder / name`, for a name that came out of a file and is not to be trusted.

    Raises:
        DataError: the name is empty or absolute, climbs with `..`, names a drive, or leaves `folder` through a
            symbolic link; or no file can be called so. `where` is the file that holds the name.
    """
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: no file can have the name {name!r}; expected whole characters; rename it") from error
    pieces = PurePosixPath(name.replace("\\", "/")).parts if _SEPARATOR.search(name) else (name,)
    outside = not pieces or any(map(_LEADS_OUT.fullmatch, pieces))
    path, has_link = folder, False
    for piece in () if outside else pieces:
        path /= piece
        has_link = has_link or _is_link(path)  # most paths have none to follow
    leads_out = has_link and _leads_out(folder, path)
    if outside or leads_out:
        link = ", through a symbolic link" if leads_out else ""
        raise DataError(f"{where}: the file name {name!r} points outside {folder}{link}; expected a name inside it")
    return path


def _leads_out(folder: Path, path: Path) -> bool:
    """Whether the symbolic links between `folder` and `path` lead out of `folder`."""
    try:
        return not resolve_links(path).is_relative_to(resolve_links(folder))
    except PanformerError:  # links in a circle
        return True


def _is_link(path: Path) -> bool:
    with suppress(OSError):  # of what is not there or has too long a name, whoever opens it will tell
        return stat.S_ISLNK(os.lstat(path).st_mode)
    return False
