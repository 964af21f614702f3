"""The folders that panformer writes to: whether it may, and how much space is free."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from panformer_cli.engine.doctor.finding import Finding, examined, first_line

FEW_BYTES = 2_000_000_000
"""With less free space, a download or a run will probably fail: weights have 0.2 to 0.9 GB."""
FEW_SHARED_BYTES = 1_000_000_000
"""With less shared memory, data workers may be killed; containers have 64 MB by default."""
SHARED = Path("/dev/shm")


def folders() -> Iterator[Finding]:
    """Examine the cache, the folder for temporary files, the current folder, and shared memory."""
    yield from examined("Folders", "cache", _cache)
    yield from examined("Folders", "temporary files", lambda: _folder("temporary files", _temporary(), "TMPDIR"))
    yield from examined("Folders", "current folder", lambda: _folder("current folder", Path.cwd(), ""))
    if SHARED.is_dir():
        yield from examined("Folders", "shared memory", _shared)


def _cache() -> Iterator[Finding]:
    from panformer_cli.storage.files import cache_folder

    yield from _folder("cache", cache_folder(), "PANFORMER_HOME")


def _temporary() -> Path:
    return Path(tempfile.gettempdir())


def _folder(name: str, folder: Path, variable: str) -> Iterator[Finding]:
    """Examine a folder, or the one in which it will be created; `variable` is the one that sets it."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    move = f"export {variable}=DIR" if variable else "cd to another folder, or pass --out DIR"
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        reason = error.strerror or first_line(error)
        where = "" if existing == folder else f" in {existing}"
        yield Finding("Folders", name, "failed", f"{folder} cannot be written{where}: {reason}", move)
        return
    free = shutil.disk_usage(existing).free
    is_enough = free >= FEW_BYTES
    advice = "" if is_enough else f"free some space, or: {move}"
    yield Finding("Folders", name, "ok" if is_enough else "warning", f"{folder}, {free / 1e9:.1f} GB free", advice)


def _shared() -> Iterator[Finding]:
    size = shutil.disk_usage(SHARED).total
    writable = os.access(SHARED, os.W_OK)
    is_good = writable and size >= FEW_SHARED_BYTES
    found = f"{SHARED}, {size / 1e9:.1f} GB" + ("" if writable else ", not writable")
    advice = f"start the container with {shlex.quote('--shm-size=8g')}, or train with --set data.workers=0"
    yield Finding("Folders", "shared memory", "ok" if is_good else "warning", found, "" if is_good else advice)
