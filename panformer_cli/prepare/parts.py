"""What has been worked out image by image, kept in a file that an interruption does not lose."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from panformer_cli.data.parallel import map_in_order
from panformer_cli.errors import PanformerError
from panformer_cli.files import is_in_use
from panformer_cli.reporting import Progress

Line = dict[str, Any]
"""What is known of one image: `stamp`, and either `problem`, a sentence, or whatever was worked out."""

Task = TypeVar("Task")

_MISSING = -1


class ImageParts:
    """One line of JSON for each of `total` images in the file `path`, in any order; eight bytes an image in memory.

    A new object goes on with the lines that an earlier one left, if `setting`, which stands in the first line, is the
    same; otherwise it starts anew. A line that was cut short counts as not written.

    Raises:
        PanformerError: the file cannot be written, here or when a line is added, or another process has it open.
    """

    def __init__(self, path: Path, total: int, setting: Line) -> None:
        self.path = path
        self._places = array("q", [_MISSING]) * total
        self._bad: set[int] = set()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            if is_in_use(self._file):
                self._file.close()
                raise PanformerError(
                    f"another process is writing {path}; expected one at a time; wait for its end, or choose another "
                    "--out"
                )
            if not self._read_places(setting):
                self._file.truncate(0)
                self._append(json.dumps(setting))
        except OSError as error:
            raise self._cannot_write(error) from error

    def __enter__(self) -> ImageParts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __contains__(self, index: int) -> bool:
        return self._places[index] != _MISSING

    def __getitem__(self, index: int) -> Line:
        """The line of an image; KeyError where there is none yet."""
        if index not in self:
            raise KeyError(index)
        self._file.seek(self._places[index])
        line: Line = json.loads(self._file.readline())
        return line

    def __len__(self) -> int:
        """How many lines there are."""
        return sum(place != _MISSING for place in self._places)

    @property
    def missing(self) -> Iterator[int]:
        """The images without a line, in their order."""
        return (index for index, place in enumerate(self._places) if place == _MISSING)

    @property
    def problems(self) -> list[str]:
        """What is wrong with the images that cannot be used."""
        return [self[index]["problem"] for index in sorted(self._bad)]

    def __iter__(self) -> Iterator[Line]:
        """The lines that are there, in the order of the images."""
        return (self[index] for index in range(len(self._places)) if index in self)

    def add(self, index: int, line: Line) -> None:
        """Write the line of an image. It is safe from an end of this process when this returns."""
        try:
            self._place(index, "problem" in line, self._append(json.dumps({"index": index, **line})))
        except OSError as error:
            raise self._cannot_write(error) from error

    def add_text(self, index: int, text: str, is_problem: bool) -> None:
        """As `add`, for a line that is JSON already: `text` is its object without the braces."""
        try:
            self._place(index, is_problem, self._append(f'{{"index": {index}, {text}}}'))
        except OSError as error:
            raise self._cannot_write(error) from error

    def forget(self, index: int) -> None:
        """Count an image as not worked out; its next line takes the place of the old one."""
        self._places[index] = _MISSING
        self._bad.discard(index)

    def remove(self) -> None:
        """Close and delete the file."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _place(self, index: int, is_problem: bool, place: int) -> None:
        self._places[index] = place
        if is_problem:
            self._bad.add(index)
        else:
            self._bad.discard(index)

    def _append(self, text: str) -> int:
        place = self._file.seek(0, 2)
        self._file.write(text.encode() + b"\n")
        self._file.flush()
        return place

    def _read_places(self, setting: Line) -> bool:
        """Find the lines of an earlier object; False where there are none for this setting."""
        self._file.seek(0)
        place = 0
        for number, text in enumerate(self._file):
            line = _parsed(text)
            if line is None:
                self._file.truncate(place)  # cut short: the last line written
                break
            if number == 0 and line != setting:
                return False
            if number > 0 and line["index"] < len(self._places):  # fewer images may be there than were
                self._place(line["index"], "problem" in line, place)
            place += len(text)
        return place > 0

    def _cannot_write(self, error: OSError) -> PanformerError:
        return PanformerError(
            f"cannot write {self.path}: {error.strerror}; free some space or choose another folder, then run the same "
            "command again, which goes on from here"
        )


def stamp_of(*paths: Path) -> list[int | None]:
    """Sizes and times of files: what tells that they are those of before. None for a file that is not there."""
    stamp: list[int | None] = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            stamp.append(None)
        else:
            stamp += [status.st_size, status.st_mtime_ns]
    return stamp


def work_out(
    parts: ImageParts,
    tasks: Callable[[], Iterable[Task]],
    stamp: Callable[[Task], Any],
    work: Callable[[Task], Line],
    workers: int,
    progress: Progress,
) -> None:
    """Add `work(task)` to `parts` for each of `tasks()` that has no line, or one of a problem or of another stamp.

    Lines that stay are told to `progress` first, then every new one. `work` has to pickle if `workers` is not 1; it
    puts `stamp(task)` into its line.
    """
    if len(parts):
        for index, task in enumerate(tasks()):
            if index in parts and ("problem" in parts[index] or parts[index]["stamp"] != stamp(task)):
                parts.forget(index)
        progress.advance(len(parts))
    missing = (task for index, task in enumerate(tasks()) if index not in parts)
    lines = map_in_order(partial(_as_text, work), missing, workers)
    for index, (text, is_problem) in zip(parts.missing, lines, strict=True):
        parts.add_text(index, text, is_problem)
        progress.advance()


def _as_text(work: Callable[[Task], Line], task: Task) -> tuple[str, bool]:
    """The line of a task as JSON without its braces, which travels faster than the object; whether it is a problem."""
    line = work(task)
    return json.dumps(line)[1:-1], "problem" in line


def _parsed(text: bytes) -> Line | None:
    """The object of a line; None where the line is not whole."""
    if not text.endswith(b"\n"):
        return None
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None
