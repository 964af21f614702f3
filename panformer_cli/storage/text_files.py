"""Text files of other tools: UTF-8, with a guess at the encoding in the error for files that are not."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from panformer_cli.errors import DataError

_MARKED = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
"""Encodings recognized by a byte order mark or by the null bytes of ASCII characters."""

_PART = 2**20
"""Bytes that are checked at a time."""

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_MINIMUM_SHARE, _MOST_GUESSES = 0.5, 3
"""Least share of usual characters at which an encoding is suggested, and number of suggestions."""
_CONTEXT = 12
"""Characters that an error shows before the first one that is not ASCII."""


def decode_text(data: bytes, path: Path, encoding: str | None = None) -> str:
    """Return the text of a file, without byte order mark.

    A file that starts with a byte order mark, has the null bytes of UTF-16, or is UTF-8 is read as such, even if
    `encoding` is another one: folders often contain files of both.

    Args:
        data: The content of the file.
        path: The file, for errors.
        encoding: Encoding of files that are not UTF-8, a name that Python knows. None rejects such files.

    Raises:
        DataError: The file has another encoding. The error names the position and likely encodings.
    """
    return data.decode(_encoding(data, path, encoding), "surrogatepass").removeprefix("\ufeff")


def encoding_of(path: Path, encoding: str | None = None) -> str:
    """Return the encoding in which `decode_text` reads a file, which may be large.

    Args:
        path: An existing file.
        encoding: As in `decode_text`. Without it, the file is read in parts.

    Raises:
        DataError: As in `decode_text`.
        OSError: The file cannot be read.
    """
    if encoding is None:
        with path.open("rb") as file:
            marked = json.detect_encoding(file.read(4))
            file.seek(0)
            if marked in _MARKED or _is_utf8(file):
                return marked
    return _encoding(path.read_bytes(), path, encoding)


def _is_utf8(file: BinaryIO) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")("surrogatepass")
    try:
        while part := file.read(_PART):
            decoder.decode(part)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _encoding(data: bytes, path: Path, encoding: str | None) -> str:
    marked = json.detect_encoding(data)  # by byte order mark or null bytes
    try:
        text = data.decode(marked, "surrogatepass")
    except UnicodeDecodeError as error:
        if marked in _MARKED:
            raise DataError(
                f"{path} looks like {marked} but is corrupt or truncated at byte {error.start}; save it as UTF-8"
            ) from error
        if encoding is None or codecs.lookup(encoding).name == "utf-8":
            raise DataError(f"{path} {_not_utf8(data, error)}, or save the file as UTF-8") from error
    else:
        if encoding is None or marked in _MARKED or not _is_also(text, encoding):
            return marked
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is neither UTF-8 nor {encoding}: {_position(data, error.start)}; pass another --encoding, or save "
            "the file as UTF-8"
        ) from error
    return encoding


def _is_also(text: str, encoding: str) -> bool:
    """Return whether text that was read as UTF-8 is likely to be in an encoding of two bytes per character.

    Characters of two bytes in UTF-8, such as \u00e8, are frequent in such encodings; those of three bytes are not.
    """
    others = _NOT_ASCII.findall(text)
    has_two_bytes = "a".encode(encoding) == b"a" and len(b"\xc3\xa8".decode(encoding, "replace")) == 1
    return has_two_bytes and bool(others) and max(others) < "\u0800"


def _not_utf8(data: bytes, error: UnicodeDecodeError) -> str:
    """Return what is wrong with data that is not UTF-8, and which `--encoding` is likely, as part of a sentence."""
    start = data.rfind(b"\n", 0, error.start) + 1
    line = data[start:].partition(b"\n")[0]
    guesses = [f"{name} (a line is {_shown(line, name)})" for name in likely_encodings(data)]
    guess = f"it may be {' or '.join(guesses)}; " if guesses else ""
    return f"is not UTF-8: {_position(data, error.start)}; {guess}pass its encoding with --encoding NAME"


def _shown(line: bytes, encoding: str) -> str:
    """Return a line, without what is far from its first character that is not ASCII."""
    text = " ".join(line.decode(encoding, "replace").split())
    found = _NOT_ASCII.search(text)
    start = max(found.start() - _CONTEXT, 0) if found else 0
    return repr(text[start : start + 3 * _CONTEXT])


def _position(data: bytes, start: int) -> str:
    return f"byte 0x{data[start]:02x} at position {start}, on line {data.count(bytes([10]), 0, start) + 1}"


def likely_encodings(data: bytes) -> list[str]:
    """Return the encodings in which the largest part of the characters that are not ASCII is usual, at most three.

    Usual are the most frequent Chinese characters (the first level of GB2312 or Big5), Japanese kana and the first
    level of kanji, Korean syllables, words of Cyrillic letters, and Latin letters with accents in words of ASCII
    letters. The list is empty if less than half of the characters are usual.

    >>> likely_encodings("Stra\u00dfe".encode("cp1252"))
    ['cp1252']
    """
    shares = {name: _share_of_usual(data, name, count) for name, count in _USUAL.items()}
    most = max(shares.values())
    return [name for name, share in shares.items() if share == most >= _MINIMUM_SHARE][:_MOST_GUESSES]


def _share_of_usual(data: bytes, encoding: str, count: Callable[[str], int]) -> float:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return 0.0
    return count(text) / max(len(_NOT_ASCII.findall(text)), 1)


def _in_rows(encoding: str, first: int, last: int) -> Callable[[str], int]:
    """Return a function that counts the characters whose first of two bytes in an encoding is in a range."""

    def count(text: str) -> int:
        encoded = (character.encode(encoding, "ignore") for character in _NOT_ASCII.findall(text))
        return sum(len(pair) == 2 and first <= pair[0] <= last for pair in encoded)

    return count


def _matching(pattern: str) -> Callable[[str], int]:
    """Return a function that counts the characters in matches of a pattern."""
    compiled = re.compile(pattern)
    return lambda text: sum(map(len, compiled.findall(text)))


_CYRILLIC = "\u0410-\u044f\u0401\u0451"
_ACCENTED = "\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u00ff\u0152\u0153\u0160\u0161\u0178\u017d\u017e"
_TYPOGRAPHIC = "\u2013\u2014\u2018-\u201d\u00b0\u00b2"

_USUAL: dict[str, Callable[[str], int]] = {
    "gb18030": _in_rows("gb2312", 0xB0, 0xD7),
    "shift_jis": lambda text: _matching("[\u3041-\u30ff]")(text) + _in_rows("shift_jis", 0x88, 0x97)(text),
    "cp949": _in_rows("euc_kr", 0xB0, 0xC8),
    "big5": _in_rows("big5", 0xA4, 0xC6),
    "cp1251": _matching(f"(?<![A-Za-z{_CYRILLIC}])[{_CYRILLIC}]{{2,}}(?![A-Za-z{_CYRILLIC}])"),
    "cp1252": _matching(f"(?<=[A-Za-z])[{_ACCENTED}]{{1,2}}|[{_ACCENTED}]{{1,2}}(?=[A-Za-z])|[{_TYPOGRAPHIC}]"),
}
"""For each encoding, a function that counts the usual characters of a text."""


def is_text_encoding(name: str) -> bool:
    """Return whether Python knows a text encoding of this name."""
    try:
        return bool("a".encode(name)) and bool(b"a\xff".decode(name, "replace"))  # idna only decodes strictly
    except (LookupError, UnicodeError, ValueError):
        return False
