"""One line of JSON an image, written by several processes, which an interruption does not lose."""

from __future__ import annotations

import json
import shutil
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.errors import PanformerError
from panformer_cli.files import write_json
from panformer_cli.plain_json import parse as parse_json

Line = dict[str, Any]

_PLACE = np.dtype([("index", "i8"), ("file", "i8"), ("offset", "i8")])  # of a line; 24 bytes are all it takes


class ImageLines:
    """`FOLDER/<rank>.jsonl`: every process appends its images' lines, and any number of processes can go on from them.

    A line has `index`, the image's place in the data set; process `rank` has those with index = rank modulo processes.
    Only places in the files are held in memory.
    """

    def __init__(self, folder: Path, process: Process) -> None:
        self.folder = folder
        self.process = process
        self._writing = Lock()

    @staticmethod
    def begin(folder: Path, settings: dict[str, Any], resume: bool) -> None:
        """Empty the folder, or keep it for `resume`. Called once, before any process opens it.

        settings: what the lines depend on, for JSON.

        Raises:
            PanformerError: there are lines to go on from, made with other settings, or nobody can tell with which.
        """
        path = folder / "settings.json"
        if resume and path.is_file():
            known = _settings_of(path)
            if other := differing(known, settings):
                raise PanformerError(
                    f"{folder.parent} was begun with another {other}; --resume goes on only with the same; "
                    "leave it out to begin anew"
                )
            return
        shutil.rmtree(folder, ignore_errors=True)
        write_json(path, settings)

    def done(self) -> Iterator[Line]:
        """The lines from before that are this process's, by index, one an image; none may be appended meanwhile."""
        files, places = self._places()
        return _read(files, places[places["index"] % self.process.world_size == self.process.rank])

    def append(self, index: int, content: Line) -> None:
        """Write the line of an image; any thread may."""
        path = self.folder / f"{self.process.rank}.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._writing, path.open("ab+") as file:
            file.seek(max(file.tell() - 1, 0))
            torn = file.read(1) not in (b"", b"\n")  # a line that a kill cut short stays alone
            file.write(b"\n" * torn + json.dumps({"index": index, **content}).encode() + b"\n")

    def in_order(self) -> Iterator[Line]:
        """The lines of all processes by index; all must have written theirs."""
        return _read(*self._places())

    def wait(self) -> None:
        """Until every process has written its lines.

        Raises:
            PanformerError: in the first process, where it does not see the lines of another one.
        """
        own = f"{self.process.rank}.jsonl"
        written = self.process.gather(own if (self.folder / own).is_file() else None)
        if self.process.is_first and (
            lost := [name for name in written if name and not (self.folder / name).is_file()]
        ):
            raise PanformerError(
                f"{self.folder}: the first process does not see {lost[0]}, which a process of another machine wrote; "
                "expected a folder that all machines share; choose one with --out, and with TMPDIR for --predictions"
            )

    def remove(self) -> None:
        """Delete all lines."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _places(self) -> tuple[list[Path], npt.NDArray[np.void]]:
        """The files, and (N,) of `_PLACE`: where in them the last whole line of every image is, by index."""
        files, found = sorted(self.folder.glob("*.jsonl")), array("q")
        for number, path in enumerate(files):
            with path.open("rb") as file:
                offset = 0
                for line in file:
                    index = _index_of(line)
                    if index is not None:
                        found.extend((index, number, offset))
                    offset += len(line)
        newest_first = np.frombuffer(found, _PLACE)[::-1]
        return files, newest_first[np.unique(newest_first["index"], return_index=True)[1]]


def differing(known: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The names of settings that differ, with commas between them; empty where none does."""
    return ", ".join(sorted(name for name in known.keys() | wanted.keys() if known.get(name) != wanted.get(name)))


def _settings_of(path: Path) -> dict[str, Any]:
    try:
        return dict(parse_json(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise PanformerError(f"{path} is damaged ({error}); leave --resume out to begin anew") from error


def _index_of(line: bytes) -> int | None:
    """The index of a line; None where it was cut short."""
    try:
        index: int = json.loads(line)["index"]
    except ValueError:
        return None
    return index


def _read(files: list[Path], places: npt.NDArray[np.void]) -> Iterator[Line]:
    with ExitStack() as stack:
        opened = [stack.enter_context(path.open("rb")) for path in files]
        for place in places:
            file = opened[place["file"]]
            file.seek(place["offset"])
            line: Line = json.loads(file.readline())
            yield line
