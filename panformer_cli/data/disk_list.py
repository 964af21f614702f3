"""A list in a temporary SQLite database instead of memory, for the rows of large data sets."""

from __future__ import annotations

import pickle
import sqlite3
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

from panformer_cli.errors import PanformerError

T = TypeVar("T")


class LazySequence(Sequence[T], Generic[T]):
    """A sequence that creates each item on access."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        positions = range(len(self))[index]
        return tuple(map(self._item, positions)) if isinstance(positions, range) else self._item(positions)

    def _item(self, position: int) -> T:
        """Return the item at a valid, non-negative position."""
        raise NotImplementedError


class DiskList(LazySequence[T]):
    """An append-only sequence in a temporary database that is deleted with the object.

    Items must be picklable. Each access creates a new object. Small lists stay in memory, in SQLite's cache.

    Args:
        items: the first items.
        key: returns the key of an item, by which it can be found. Keys are equal if their `repr` is.

    Raises:
        PanformerError: the temporary file cannot be written or read.
    """

    def __init__(self, items: Iterable[T] = (), key: Callable[[T], Hashable] | None = None) -> None:
        self._key = key
        self._length = 0
        self._is_indexed = False
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self._database.close)
        self._run("PRAGMA journal_mode = OFF")
        self._run("CREATE TABLE items (position INTEGER PRIMARY KEY, key TEXT, content BLOB)")
        self._run("BEGIN")
        self.extend(items)

    def __reduce__(self) -> tuple[Any, ...]:
        return DiskList, (list(self), self._key)

    def append(self, item: T) -> None:
        key = repr(self._key(item)) if self._key else None
        self._run("INSERT INTO items VALUES (?, ?, ?)", self._length, key, pickle.dumps(item, pickle.HIGHEST_PROTOCOL))
        self._length += 1

    def extend(self, items: Iterable[T]) -> None:
        for item in items:
            self.append(item)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        return map(pickle.loads, self._column("SELECT content FROM items ORDER BY position"))

    def positions(self, key: Hashable) -> Iterator[int]:
        """Yield the positions of the items with this key, ascending."""
        self._index_keys()
        return self._column("SELECT position FROM items WHERE key = ? ORDER BY position", repr(key))

    def first(self, key: Hashable) -> int | None:
        """Return the position of the first item with this key; None if there is none."""
        self._index_keys()
        row = self._run("SELECT position FROM items WHERE key = ? ORDER BY position LIMIT 1", repr(key)).fetchone()
        return None if row is None else int(row[0])

    def repeats(self) -> Iterator[int]:
        """Yield the positions of the items that repeat the key of an earlier item, ascending."""
        self._index_keys()
        firsts = "SELECT min(position) FROM items GROUP BY key"
        return self._column(f"SELECT position FROM items WHERE position NOT IN ({firsts}) ORDER BY position")

    def _item(self, position: int) -> T:
        (content,) = self._run("SELECT content FROM items WHERE position = ?", position).fetchone()
        item: T = pickle.loads(content)
        return item

    def _index_keys(self) -> None:
        if not self._is_indexed:  # indexing all keys at once is faster than one by one
            self._run("CREATE INDEX keys ON items (key)")
            self._is_indexed = True

    def _run(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Execute a statement up to its first row."""
        try:
            return self._database.execute(statement, values)
        except sqlite3.Error as error:
            raise _cannot_use(error) from error

    def _column(self, statement: str, *values: Any) -> Iterator[Any]:
        """Yield the first column of all rows."""
        rows = self._run(statement, *values)
        try:
            for row in rows:
                yield row[0]
        except sqlite3.Error as error:
            raise _cannot_use(error) from error


def _cannot_use(error: sqlite3.Error) -> PanformerError:
    return PanformerError(
        f"cannot write or read a temporary file: {error}; free some space in the folder for temporary files "
        "(/var/tmp, /tmp), or set the environment variable TMPDIR to another folder"
    )
