"""A lock file that a process holds while it lives; the system releases it in any case when the process ends."""

from __future__ import annotations

import errno
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from io import FileIO
from pathlib import Path

from panformer_cli.storage.files import writing

_FAR = 1 << 30
"""The locked byte: Windows lets no other process read a locked one, and the text is before it."""
_held: dict[Path, str] = {}
"""Lock files that this process holds, and their text. A lock excludes only other processes, and the system releases it
when this process closes the file, even if it opened it a second time: such a file is not opened again."""


class LockHeldError(Exception):
    """Another process, or this one, holds the lock. The message says which."""


@contextmanager
def process_lock(path: Path) -> Iterator[bool]:
    """Hold a lock on the file `path`, which contains who holds it, and delete it at the end.

    Yields:
        Whether there is a lock: some network file systems do not support them.

    Raises:
        LockHeldError: The lock is held.
        PanformerError: The file cannot be written.
    """
    key = Path(os.path.realpath(path))
    if key in _held:
        raise LockHeldError(_held[key])
    started = datetime.now().astimezone().isoformat(" ", "seconds")
    text = f"process {os.getpid()} on {platform.node()}, since {started}"
    with writing(path):
        file, locked = _locked(path, text)
    _held[key] = text
    try:
        yield locked
    finally:
        del _held[key]
        if sys.platform != "win32":  # while it is locked, so that no other process deletes a new file
            _delete(path)
        file.close()
        if sys.platform == "win32":  # which deletes no open file
            _delete(path)


def _locked(path: Path, text: str) -> tuple[FileIO, bool]:
    """Return the locked file, with `text` as its content, and whether locks are supported."""
    while True:
        file = path.open("a+b", buffering=0)
        try:
            locked = _lock(file)
        except LockHeldError:
            file.close()
            raise LockHeldError(_text(path)) from None
        except BaseException:
            file.close()
            raise
        if _is_at(path, file):
            break
        file.close()  # its holder deleted it before it was locked here
    with suppress(OSError):  # the lock is held also if the disk is full
        file.truncate(0)
        file.write(text.encode())
    return file, locked


def _is_at(path: Path, file: FileIO) -> bool:
    with suppress(OSError):
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    return False


def _lock(file: FileIO) -> bool:
    """Lock a file, and return whether the file system supports it.

    Raises:
        LockHeldError: Another process holds the lock.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(_FAR)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # children, such as data workers, do not inherit it
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise LockHeldError from error
        return False
    return True


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")[:200] or "another process"
    return "another process"


def _delete(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
