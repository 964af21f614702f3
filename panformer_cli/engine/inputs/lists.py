"""Lists of names: a text file, or standard input, which may also be an image."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from panformer_cli.data.images import read_bytes
from panformer_cli.engine.inputs.input_image import MOST_BYTES
from panformer_cli.errors import DataError
from panformer_cli.reporting import megabytes

SUFFIX = ".txt"
STANDARD_INPUT = "-"

_MARKS = b"\xef\xbb\xbf"
_CONTROL = re.compile(rb"[\x01-\x08\x0b\x0e-\x1f\x7f]")
_PNM = re.compile(rb"P[1-7]\s")
"""Start of an image format that can be plain text."""


@dataclass(frozen=True)
class StandardInput:
    """An image that was read from standard input."""

    data: bytes

    def __str__(self) -> str:
        return "standard input"

    @property
    def path(self) -> Path:
        return Path("/stdin")

    @property
    def identity(self) -> str:
        return f"- {hashlib.sha256(self.data).hexdigest()}"

    def read_bytes(self) -> bytes:
        return self.data


def read_list(path: Path) -> list[str]:
    """Return the names in a text file.

    Raises:
        DataError: It cannot be read, is not UTF-8 text, or has no names.
    """
    data = read_bytes(path, "list of images")
    if not is_text(data):
        raise DataError(f"{path} is not UTF-8 text; expected one name of an image per line; save it as UTF-8")
    return _names(data, str(path))


def read_standard_input() -> StandardInput | list[str]:
    """Return the image on standard input, or the names on it.

    Raises:
        DataError: It is a terminal, or it is empty or too large.
    """
    advice = "pipe an image or a list of names into the command, such as `panformer predict - < a.jpg`"
    stream = sys.stdin
    if stream is None or stream.isatty():
        raise DataError(f"the input - reads standard input, which is a terminal; {advice}")
    data = stream.buffer.read(MOST_BYTES + 1)  # what feeds it may have no end
    if not data:
        raise DataError(f"the input - reads standard input, which is empty; {advice}")
    if len(data) > MOST_BYTES:
        raise DataError(
            f"standard input has more than {megabytes(MOST_BYTES)} MB; give the image, or the list of names, as a file"
        )
    if is_text(data):
        return _names(data, "standard input")
    return StandardInput(data)


def is_text(data: bytes) -> bool:
    """Return whether data is UTF-8 text and not an image; zero bytes may separate names, as `find -print0` does."""
    if _PNM.match(data) or _CONTROL.search(data):
        return False
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _names(data: bytes, where: str) -> list[str]:
    """Return the names in a text: separated by zero bytes if there are any, else one per line.

    Empty names, and lines that begin with `#`, are ignored.

    Raises:
        DataError: There are no names.
    """
    text = data.removeprefix(_MARKS)
    if b"\0" in text:
        lines = text.split(b"\0")
    else:
        lines = [line.strip(b"\r") for line in text.split(b"\n") if not line.startswith(b"#")]
    names = [os.fsdecode(line) for line in lines if line.strip()]
    if not names:
        raise DataError(f"{where} has no names; expected one image, folder, pattern or address per line")
    return names
