"""A large JSON object read and written piece by piece: memory for a few items of a list, not for the file.

The reader is our own because `ijson` 3.6 with yajl (`yajl2_c`) takes 2.2 times as long for its events alone, before
objects are built of them, and 10 times as long for all lists in one pass. It names no position, refuses a byte order
mark and UTF-16, replaces lone surrogates, and crashes the process at a number of 5000 digits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TextIO

from panformer_cli.errors import DataError
from panformer_cli.storage.plain_json import DEEPEST, TOO_DEEP, is_too_deep

CHUNK = 2**18
"""Characters that are read at a time, and at least."""

ITEMS = 32
"""Items of a list that are written at a time."""

_DECODER = json.JSONDecoder()
_AFTER_VALUE = tuple(" \t\r\n,:]}")
_LONGEST_WORD = 16
"""No literal or escape of JSON is longer: an error further from the end of the text is no matter of missing text."""


def read_members(path: Path, what: str = "panoptic JSON") -> Iterator[tuple[str, Any]]:
    """The members of the object in a JSON file, in their order: `(key, value)`.

    A list at the top comes as an iterator over its items, each decoded when it is asked for; what is left of it when
    the next member is asked for is skipped. Any other value comes whole. `what` the file should be is for errors.

    Raises:
        DataError: the file is missing, no JSON, cut short, holds anything but an object, or a key of it twice; it is
            raised where the damage is met.
    """
    try:
        with path.open("rb") as binary:
            head = binary.read(4)
        if not head:
            raise DataError(f"the {what} {path} is empty (0 bytes); restore the file")
        with path.open(encoding=json.detect_encoding(head), errors="surrogatepass") as file:
            yield from _members(_Text(file, path, what))
    except FileNotFoundError as error:
        raise DataError(f"the {what} {path} is missing; check the path, or restore the file") from error
    except OSError as error:
        raise DataError(f"the {what} {path} cannot be read: {error.strerror}; expected a readable file") from error


def write_list(file: TextIO, items: Iterable[Any]) -> None:
    """Write `items` as a JSON list, some at a time: more at once take less time, all at once the memory for all."""
    iterator = iter(items)
    write_texts(file, iter(lambda: json.dumps(list(islice(iterator, ITEMS)))[1:-1], ""))


def write_texts(file: TextIO, items: Iterable[str]) -> None:
    """Write a JSON list of items that are JSON already."""
    separator = ""
    file.write("[")
    for item in items:
        file.write(separator + item)
        separator = ", "
    file.write("]")


def _members(text: _Text) -> Iterator[tuple[str, Any]]:
    if text.peek() != "{":
        kind = type(text.value()).__name__
        raise DataError(f"{text.path} holds a {kind}; expected an object, as in a COCO {text.what}")
    text.take("{")
    seen = set()
    while text.peek() != "}":
        key = text.value()
        if not isinstance(key, str) or key in seen:
            text.fail(f"the key {key!r} comes twice" if key in seen else "a name in double quotes was expected")
        seen.add(key)
        text.take(":")
        if text.peek() == "[":
            items = _items(text)
            yield key, items
            for _ in items:
                pass
        else:
            yield key, text.value()
        _take_comma(text, "}")
    text.take("}")
    if text.peek():
        text.fail("the object has ended, but the file continues")


def _items(text: _Text) -> Iterator[Any]:
    text.take("[")
    while text.peek() != "]":
        yield text.value()
        _take_comma(text, "]")
    text.take("]")


def _take_comma(text: _Text, end: str) -> None:
    if text.peek() != end:
        text.take(",")
        if text.peek() == end:
            text.fail(f"a comma stands before {end}")


class _Text:
    """The text of a file from the present place on, as far as it has been read."""

    def __init__(self, file: TextIO, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        self._file = file
        self._text = ""
        self._at = 0
        self._before = 0  # characters of the file before `_text`

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in " \t\r\n":
                    return self._text[self._at]
                self._at += 1
            if not self._read_more():
                return ""

    def take(self, mark: str) -> None:
        """Go past `mark`, which has to come next."""
        if self.peek() != mark:
            self.fail(f"{mark!r} was expected")
        self._at += 1

    def value(self) -> Any:
        """Go past the next value, and return it."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                near_end = error.pos >= len(self._text) - _LONGEST_WORD or error.msg.startswith("Unterminated")
                if not near_end or not self._read_more():
                    self.fail(error.msg, error.pos)
            except ValueError as error:  # a number with thousands of digits
                self.fail(str(error))
            except RecursionError:
                self.fail(TOO_DEEP)
            else:
                # `1` and `1.` at the end of the text may be the beginning of 1.5.
                is_whole = self._text[end : end + 1] in _AFTER_VALUE or end < len(self._text) - _LONGEST_WORD
                if is_whole or not self._read_more():
                    self._check_depth(value, end)
                    self._at = end
                    return value

    def _check_depth(self, value: Any, end: int) -> None:
        # Counting takes a fraction of the time of looking through the value, which few rows need.
        brackets = self._text.count("[", self._at, end) + self._text.count("{", self._at, end)
        if brackets > DEEPEST and is_too_deep(value):
            self.fail(TOO_DEEP)

    def fail(self, reason: str, position: int | None = None) -> NoReturn:
        """Always raises DataError."""
        place = self._before + (self._at if position is None else position)
        told = f"{reason.removesuffix(' at')} at character {place}"
        raise DataError(f"{self.path} is not valid JSON, or is truncated: {told}; expected a COCO {self.what}")

    def _read_more(self) -> bool:
        """Read on, by at least as much as is still needed, so that a long value is decoded few times."""
        try:
            more = self._file.read(max(CHUNK, len(self._text) - self._at))
        except UnicodeError:
            self.fail("bytes that are no text", len(self._text))
        self._before += self._at
        self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)
