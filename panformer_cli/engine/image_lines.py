"""One line of JSON an image, written by several processes, which an interruption does not lose."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Any

from panformer_cli.engine.runtime import Process
from panformer_cli.errors import PanformerError
from panformer_cli.files import write_json

Line = dict[str, Any]


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
            other = sorted(name for name in known.keys() | settings.keys() if known.get(name) != settings.get(name))
            if other:
                raise PanformerError(
                    f"{folder.parent} was begun with another {', '.join(other)}; --resume goes on only with the same; "
                    "leave it out to begin anew"
                )
            return
        shutil.rmtree(folder, ignore_errors=True)
        write_json(path, settings)

    def done(self) -> Iterator[Line]:
        """The lines from before that are this process's, one an image; none may be appended meanwhile."""
        for index, (path, place) in self._places().items():
            if index % self.process.world_size == self.process.rank:
                with path.open("rb") as file:
                    yield _line_at(file, place)

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
        with ExitStack() as stack:
            files: dict[Path, Any] = {}
            for _, (path, place) in sorted(self._places().items()):
                if path not in files:
                    files[path] = stack.enter_context(path.open("rb"))
                yield _line_at(files[path], place)

    def remove(self) -> None:
        """Delete all lines."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _places(self) -> dict[int, tuple[Path, int]]:
        """File and offset of the last whole line of every image."""
        places = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                place = 0
                for line in file:
                    index = _index_of(line)
                    if index is not None:
                        places[index] = path, place
                    place += len(line)
        return places


def _settings_of(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise PanformerError(f"{path} is damaged ({error}); leave --resume out to begin anew") from error


def _index_of(line: bytes) -> int | None:
    """The index of a line; None where it was cut short."""
    try:
        index: int = json.loads(line)["index"]
    except ValueError:
        return None
    return index


def _line_at(file: Any, place: int) -> Line:
    file.seek(place)
    line: Line = json.loads(file.readline())
    return line
