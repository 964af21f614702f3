"""Streaming reader and writer of large JSON objects, with memory for a few list items at a time.

Not `ijson`: version 3.6 with yajl (`yajl2_c`) takes 2.2 times as long for its events alone, before it builds objects,
and 10 times as long for all lists in one pass. It reports no position, rejects byte order marks and UTF-16, replaces
lone surrogates, and crashes the process on a number of 5000 digits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TextIO

from panformer_cli.data.coco.json_values import with_whole_numbers
from panformer_cli.errors import DataError
from panformer_cli.storage.files import missing
from panformer_cli.storage.plain_json import DEEPEST, TOO_DEEP, is_too_deep

CHUNK = 2**18
"""Minimum characters per read."""

ITEMS = 32
"""List items per write."""

_DECODER = json.JSONDecoder()
_AFTER_VALUE = tuple(" \t\r\n,:]}")
_LONGEST_WORD = 16
"""Longer than any literal or escape of JSON. An error further from the end is not caused by missing text."""


def read_members(path: Path, what: str = "panoptic JSON", encoding: str | None = None) -> Iterator[tuple[str, Any]]:
    """Yield the members `(key, value)` of the object in a JSON file, in order.

    A top-level list is an iterator that decodes its items one by one; items not consumed before the next member is
    requested are skipped. Other values are complete. Errors call the file `what`. `encoding` is by default
    that of Unicode which the first bytes show.

    Raises:
        DataError: the file is missing, not valid JSON, truncated, not an object, or has a duplicate key. It is raised
            when reading reaches the error.
    """
    try:
        with path.open("rb") as binary:
            head = binary.read(4)
        if not head:
            raise DataError(f"the {what} {path} is empty (0 bytes); restore the file")
        with path.open(encoding=encoding or json.detect_encoding(head), errors="surrogatepass") as file:
            yield from _members(_Text(file, path, what))
    except FileNotFoundError as error:
        raise missing(path, what) from error
    except OSError as error:
        raise DataError(f"the {what} {path} cannot be read: {error.strerror}; expected a readable file") from error


def read_panoptic_members(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the members of a panoptic JSON as `read_members`, with whole numbers such as 3.0 as integers."""
    for key, value in read_members(path):
        yield key, map(with_whole_numbers, value) if isinstance(value, Iterator) else value


def write_list(file: TextIO, items: Iterable[Any]) -> None:
    """Write `items` as a JSON list, several at a time for speed, not all at once to save memory."""
    iterator = iter(items)
    write_texts(file, iter(lambda: json.dumps(list(islice(iterator, ITEMS)))[1:-1], ""))


def write_texts(file: TextIO, items: Iterable[str]) -> None:
    """Write a JSON list of items that are already JSON."""
    separator = ""
    file.write("[")
    for item in items:
        file.write(separator + item)
        separator = ", "
    file.write("]")


def _members(text: _Text) -> Iterator[tuple[str, Any]]:
    if text.peek() != "{":
        kind = type(text.value()).__name__
        raise DataError(f"{text.path} contains a {kind}; expected an object, as in a COCO {text.what}")
    text.take("{")
    seen = set()
    while text.peek() != "}":
        key = text.value()
        if not isinstance(key, str) or key in seen:
            text.fail(f"duplicate key {key!r}" if key in seen else "expected a key in double quotes")
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
        text.fail("extra data after the object")


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
            text.fail(f"extra comma before {end}")


class _Text:
    """The text of a file from the current position on, as far as it has been read."""

    def __init__(self, file: TextIO, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        self._file = file
        self._text = ""
        self._at = 0
        self._before = 0  # characters of the file before `_text`

    def peek(self) -> str:
        """Return the next character that is not whitespace; empty at the end of the file."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in " \t\r\n":
                    return self._text[self._at]
                self._at += 1
            if not self._read_more():
                return ""

    def take(self, mark: str) -> None:
        """Skip `mark`, which must come next."""
        if self.peek() != mark:
            self.fail(f"expected {mark!r}")
        self._at += 1

    def value(self) -> Any:
        """Return the next value, and move past it."""
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
                # At the end of the text, `1` and `1.` may be the beginning of 1.5.
                is_whole = self._text[end : end + 1] in _AFTER_VALUE or end < len(self._text) - _LONGEST_WORD
                if is_whole or not self._read_more():
                    self._check_depth(value, end)
                    self._at = end
                    return value

    def _check_depth(self, value: Any, end: int) -> None:
        # Counting brackets is much faster than traversing the value, which few rows need.
        brackets = self._text.count("[", self._at, end) + self._text.count("{", self._at, end)
        if brackets > DEEPEST and is_too_deep(value):
            self.fail(TOO_DEEP)

    def fail(self, reason: str, position: int | None = None) -> NoReturn:
        """Raise DataError with the position of the error."""
        at = self._before + (self._at if position is None else position)
        problem = f"{reason.removesuffix(' at')} at character {at}"
        raise DataError(f"{self.path} is not valid JSON, or is truncated: {problem}; expected a COCO {self.what}")

    def _read_more(self) -> bool:
        """Read at least as much again as is left, so that decoding of a long value is retried only a few times."""
        try:
            more = self._file.read(max(CHUNK, len(self._text) - self._at))
        except UnicodeError:
            self.fail("bytes that are not valid text", len(self._text))
        self._before += self._at
        self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)
