"""A log file that several processes can append to: one line per event, with time, process and level."""

from __future__ import annotations

import os
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from panformer_cli.errors import PanformerError

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
"""Terminal sequences such as colors (ECMA-48)."""


class LogFile:
    """Appends lines to a file; a copy in another process appends to the same file.

    Each call is a single write to the end of the file, so lines of several processes are not mixed.

    Args:
        path: The file; missing folders are created.

    Raises:
        PanformerError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor: int | None = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise PanformerError(
                f"--log-file {path} cannot be written: {error.strerror or error}; expected a file in a folder that "
                "you can write to"
            ) from error

    def __reduce__(self) -> tuple[type[LogFile], tuple[Path]]:
        return LogFile, (self.path,)

    def write(self, level: str, text: str) -> None:
        """Append `text`, each of its lines with the time, the process id and the level. A full disk ends the log."""
        if self._descriptor is None:
            return
        start = f"{datetime.now().astimezone().isoformat(timespec='milliseconds')} {os.getpid()} {level:7} "
        lines = "".join(f"{start}{plain(line)}\n" for line in text.rstrip("\n").split("\n"))
        try:
            os.write(self._descriptor, lines.encode("utf-8", "backslashreplace"))
        except OSError as error:
            self.close()
            print(f"Warning: the log file {self.path} ends here: {error.strerror or error}", file=sys.stderr)

    def close(self) -> None:
        """Close the file; later lines are dropped."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def plain(line: str) -> str:
    r"""Return a line without terminal sequences, and with escapes instead of other control characters.

    >>> plain("\x1b[31mred\x1b[0m a\rb")
    'red a\\rb'
    """
    line = _ESCAPES.sub("", line)
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line)


class LoggedStream:
    """A text stream that also writes complete lines to a log file. Everything else is that of the stream."""

    def __init__(self, stream: TextIO, log: LogFile) -> None:
        self._stream, self._log, self._rest = stream, log, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write to the stream, and complete lines to the log."""
        lines, newline, self._rest = (self._rest + text).rpartition("\n")
        if newline:
            self._log.write("RESULT", lines)
        return self._stream.write(text)

    def finish(self) -> None:
        """Log the last line, which has no line break."""
        if self._rest:
            self._log.write("RESULT", self._rest)
            self._rest = ""
