"""A lock on a folder, so that two processes never write into it at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from panformer_cli.errors import PanformerError
from panformer_cli.reporting import Reporter
from panformer_cli.storage.process_lock import LockHeldError, process_lock

LOCK = ".lock"
"""Name of the lock file in the folder."""


@contextmanager
def claimed(folder: Path, use: str, another: str, reporter: Reporter) -> Iterator[None]:
    """Hold the lock of an existing folder; the system releases it in any case when the process ends.

    Args:
        folder: The folder.
        use: What the holder does, as in "is being trained by process 7".
        another: What the lock prevents, such as "a second training".
        reporter: Receives a warning if the file system has no locks.

    Raises:
        PanformerError: Another process holds the lock.
    """
    with ExitStack() as stack:
        try:
            locked = stack.enter_context(process_lock(folder / LOCK))
        except LockHeldError as error:
            raise PanformerError(
                f"{folder} is being {use} by {error}; wait for it to finish, stop it, or choose another --out"
            ) from error
        if not locked:
            reporter.warn(f"{folder} is on a file system without locks: nothing prevents {another} in this folder")
        yield
