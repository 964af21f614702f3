"""Results kept as one JSON line per image, so that an interrupted run resumes where it stopped.

- `FOLDER/settings.json`: the settings that the results depend on
- `FOLDER/<rank>.jsonl`: the lines of one process; an incomplete line of a killed process is ignored
- `FOLDER/<rank>.lock`: held by that process while it writes
"""

from __future__ import annotations

import json
import shutil
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from panformer_cli.errors import PanformerError
from panformer_cli.storage.files import write_json, writing
from panformer_cli.storage.process_lock import LockHeldError, process_lock

Line = dict[str, Any]
"""The results of one image; in the log also `index`, the position of the image in the data set."""

_POSITION = np.dtype([("index", "i8"), ("file", "i8"), ("offset", "i8")])
"""Position of a line; the line itself is not kept in memory."""


class ResultLog:
    """The log in `folder`, as seen by one of the processes that write to it.

    The number of processes may change on resume. If an image has several lines, the last one counts. Image i belongs
    to the process with rank i modulo `world_size`.
    """

    def __init__(self, folder: Path, rank: int = 0, world_size: int = 1) -> None:
        self.folder = folder
        self.path = folder / f"{rank}.jsonl"
        self._rank = rank
        self._world_size = world_size
        self._appending = Lock()
        self._opened = ExitStack()
        self._file: FileIO | None = None

    @staticmethod
    def start(folder: Path, settings: dict[str, Any], resume: bool) -> None:
        """Create an empty log, or keep the existing one if `resume`; called once, before any process writes.

        Args:
            folder: folder that contains only the log.
            settings: the settings that the lines depend on, as JSON.
            resume: keep the lines of a log with these settings.

        Raises:
            PanformerError: another process is writing the log, the folder cannot be written, or the settings of the log
                to resume are corrupt or different.
        """
        ResultLog.check_is_free(folder)
        stored = stored_settings(folder) if resume else None
        if stored is None:
            shutil.rmtree(folder, ignore_errors=True)
            write_json(folder / "settings.json", settings)
        elif settings and not stored:
            raise PanformerError(f"{folder / 'settings.json'} is corrupt or empty; leave out --resume to start over")
        elif changed := differing(stored, settings):
            raise PanformerError(
                f"{folder.parent} was started with a different {changed} (see {folder / 'settings.json'}); use the "
                "same to resume, or leave out --resume to start over"
            )

    @staticmethod
    def check_is_free(folder: Path) -> None:
        """Raise PanformerError if another process is writing the log in `folder`."""
        with writing(folder):
            for path in folder.glob("*.lock"):
                with _lock(path):
                    pass

    def append(self, index: int, content: Line) -> None:
        """Append the line of an image; thread-safe. The line is kept even if the process is killed.

        Raises:
            PanformerError: the file cannot be written, or another process is writing it.
        """
        self.append_text(line_text(index, content))

    def append_text(self, text: str) -> None:
        """Append a line returned by `line_text`; errors as `append`."""
        with self._appending, writing(self.path, "free some space and run the command again; finished images are kept"):
            self._file = self._file or self._open()
            unwritten = memoryview(text.encode() + b"\n")
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]

    def lines(self, total: int | None = None) -> Iterator[Line]:
        """Yield the lines of all processes in index order, up to image `total` - 1."""
        files, positions = self._find_lines()
        return _read(files, positions if total is None else positions[positions["index"] < total])

    def own_lines(self) -> Iterator[Line]:
        """Yield the lines of this process's images in index order, including those that other processes wrote."""
        files, positions = self._find_lines()
        return _read(files, positions[positions["index"] % self._world_size == self._rank])

    def close(self) -> None:
        """Close the file; `append` opens it again."""
        self._opened.close()
        self._file = None

    def remove(self) -> None:
        """Delete the lines of all processes, and the settings."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _open(self) -> FileIO:
        self.folder.mkdir(parents=True, exist_ok=True)
        # A lock on the log itself would be released when any reader closes it.
        self._opened.enter_context(_lock(self.path.with_suffix(".lock")))
        file = self._opened.enter_context(self.path.open("a+b", buffering=0))
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")  # end an incomplete line
        return file

    def _find_lines(self) -> tuple[list[Path], npt.NDArray[np.void]]:
        """Return the files, and the last complete line of each image as (N,) of `_POSITION`, sorted by index."""
        files, found = sorted(self.folder.glob("*.jsonl")), array("q")
        for number, path in enumerate(files):
            offset = 0
            with path.open("rb") as file:
                for line in file:
                    if (index := _index_of(line)) is not None:
                        found.extend((index, number, offset))
                    offset += len(line)
        newest_first = np.frombuffer(found, _POSITION)[::-1]
        return files, newest_first[np.unique(newest_first["index"], return_index=True)[1]]


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock of a log.

    Raises:
        PanformerError: Another process, or another log of this one, holds it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(process_lock(path))
        except LockHeldError as error:
            raise PanformerError(
                f"another process is writing {path.parent}: {error}; expected one at a time; wait for it to finish, or "
                "choose another --out"
            ) from error
        yield


def line_text(index: int, content: Line) -> str:
    """Return a line as JSON, for `ResultLog.append_text`."""
    return json.dumps({"index": index, **content})


def stored_settings(folder: Path) -> dict[str, Any] | None:
    """Return the settings of the log in `folder`: None if there is no log, empty if the file is corrupt."""
    try:
        return dict(json.loads((folder / "settings.json").read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError):
        return {}


def differing(stored: dict[str, Any], current: dict[str, Any]) -> str:
    """Return the names of the settings that differ, joined by commas; empty if none does."""
    return ", ".join(sorted(name for name in stored.keys() | current.keys() if stored.get(name) != current.get(name)))


def _index_of(line: bytes) -> int | None:
    """Return the index of a line; None if it is incomplete or corrupt."""
    try:
        index: int = json.loads(line)["index"]
    except (ValueError, TypeError, KeyError):
        return None
    return index


def _read(files: list[Path], positions: npt.NDArray[np.void]) -> Iterator[Line]:
    with ExitStack() as stack:
        opened = [stack.enter_context(path.open("rb")) for path in files]
        for _, number, offset in positions:
            opened[number].seek(offset)
            line: Line = json.loads(opened[number].readline())
            yield line
