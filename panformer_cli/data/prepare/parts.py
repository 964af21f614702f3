"""What has been worked out image by image, kept in a file that an interruption does not lose."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from panformer_cli.errors import PanformerError

Line = dict[str, Any]

_MISSING = -1


class ImageParts:
    """One line of JSON for each of `total` images in the file `path`, in any order; eight bytes an image in memory.

    A new object goes on with the lines that an earlier one left, if `setting`, which stands in the first line, is the
    same; otherwise it starts anew. A line that was cut short counts as not written.

    Raises:
        PanformerError: the file cannot be written, here or when a line is added.
    """

    def __init__(self, path: Path, total: int, setting: Line) -> None:
        self.path = path
        self._places = array("q", [_MISSING]) * total
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            if not self._read_places(setting):
                self._file.truncate(0)
                self._append(setting)
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

    def __iter__(self) -> Iterator[Line]:
        """The lines that are there, in the order of the images."""
        return (self[index] for index in range(len(self._places)) if index in self)

    def add(self, index: int, line: Line) -> None:
        """Write the line of an image. It is safe from an end of this process when this returns."""
        try:
            self._places[index] = self._append({"index": index, **line})
        except OSError as error:
            raise self._cannot_write(error) from error

    def forget(self, index: int) -> None:
        """Count an image as not worked out; its next line takes the place of the old one."""
        self._places[index] = _MISSING

    def remove(self) -> None:
        """Close and delete the file."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _append(self, line: Line) -> int:
        place = self._file.seek(0, 2)
        self._file.write(json.dumps(line).encode() + b"\n")
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
            if number > 0:
                self._places[line["index"]] = place
            place += len(text)
        return place > 0

    def _cannot_write(self, error: OSError) -> PanformerError:
        return PanformerError(
            f"cannot write {self.path}: {error.strerror}; free some space or choose another folder, then run the same "
            "command again, which goes on from here"
        )


def _parsed(text: bytes) -> Line | None:
    """The object of a line; None where the line is not whole."""
    if not text.endswith(b"\n"):
        return None
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None
