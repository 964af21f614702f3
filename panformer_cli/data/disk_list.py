"""Rows of a large data set that are not kept in memory."""

from __future__ import annotations

import pickle
import tempfile
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar, overload

import numpy as np

from panformer_cli.errors import PanformerError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class MadeSequence(Sequence[T], Generic[T]):
    """A sequence that makes each item when it is asked for."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        places = range(len(self))[index]
        return tuple(map(self._item, places)) if isinstance(places, range) else self._item(places)

    def _item(self, place: int) -> T:
        """The item at a place that is there."""
        raise NotImplementedError


class Spool(MadeSequence[T]):
    """A sequence that grows at its end and lies in a temporary file: eight bytes an item in memory.

    Nobody else reads or writes the file, which on Linux and macOS has no name, and it is gone with the object. Items
    have to pickle; each access makes a new one.

    Raises:
        PanformerError: the temporary file cannot be written.
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._ends = array("q", [0])
        self._is_at_end = True
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        except OSError as error:
            raise _cannot_write(error) from error
        self.extend(items)

    def append(self, item: T) -> None:
        content = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
        try:
            if not self._is_at_end:  # to seek is to write what is gathered
                self._file.seek(self._ends[-1])
            self._file.write(content)
        except OSError as error:
            raise _cannot_write(error) from error
        self._is_at_end = True
        self._ends.append(self._ends[-1] + len(content))

    def extend(self, items: Iterable[T]) -> None:
        for item in items:
            self.append(item)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def _item(self, place: int) -> T:
        self._is_at_end = False
        try:
            self._file.seek(self._ends[place])
            item: T = pickle.loads(self._file.read(self._ends[place + 1] - self._ends[place]))
        except OSError as error:  # what was written last is on its way to the disk when it is read
            raise _cannot_write(error) from error
        return item


class KeyPlaces:
    """Where each of many keys stands in a sequence that has them: 16 bytes a key in memory, whatever the keys are.

    Only hashes are kept, so whoever looks up a key compares the item that stands there.
    """

    def __init__(self, keys: Iterable[Hashable]) -> None:
        hashes = np.array(array("q", map(hash, keys)), np.int64)
        places = np.argsort(hashes, kind="stable")
        # Not as arrays of NumPy, which take longer to give a single item.
        self._places, self._hashes = array("q", places.tobytes()), array("q", hashes[places].tobytes())

    def of(self, key: Hashable) -> Iterator[int]:
        """The places of all keys with the hash of `key`, ascending: nearly always those of `key`."""
        hashed = hash(key)
        first = bisect_left(self._hashes, hashed)
        # One after the other: there may be thousands, of which the first will do.
        return map(self._places.__getitem__, range(first, bisect_right(self._hashes, hashed, first)))

    def repeated(self) -> Iterator[list[int]]:
        """The places of keys with one hash, ascending, for each hash that several have."""
        ends = np.append(np.flatnonzero(np.diff(self._hashes)) + 1, len(self._hashes))
        starts = np.append(0, ends[:-1])
        for number in np.flatnonzero(ends - starts > 1):
            yield self._places[starts[number] : ends[number]].tolist()


class KeyedSpool(Generic[K, T]):
    """Rows with a key each, not all different, found by it: 24 bytes a row in memory.

    Errors as `Spool`.
    """

    def __init__(self, rows: Iterable[tuple[K, T]] = ()) -> None:
        self._rows = Spool(rows)
        self._places: KeyPlaces | None = None

    def append(self, key: K, item: T) -> None:
        self._rows.append((key, item))
        self._places = None

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[tuple[K, T]]:
        return iter(self._rows)

    def __getitem__(self, place: int) -> tuple[K, T]:
        return self._rows[place]

    def places(self, key: K) -> Iterator[int]:
        """Where the rows with this key are, ascending; each is found when it is asked for."""
        return (place for place in self._key_places().of(key) if self._rows[place][0] == key)

    def first(self, key: K) -> int | None:
        """Where the first row with this key is; None where there is none."""
        return next(self.places(key), None)

    def repeats(self) -> list[int]:
        """Where the rows are whose key an earlier row has, ascending."""
        repeats = []
        for places in self._key_places().repeated():
            seen = set()
            for place in places:
                key, _ = self._rows[place]
                if key in seen:
                    repeats.append(place)
                seen.add(key)
        return sorted(repeats)

    def _key_places(self) -> KeyPlaces:
        if self._places is None:
            self._places = KeyPlaces(key for key, _ in self._rows)
        return self._places


def _cannot_write(error: OSError) -> PanformerError:
    try:
        folder = tempfile.gettempdir()
    except OSError:
        folder = "any of the usual folders"
    return PanformerError(
        f"cannot write a temporary file in {folder}: {error.strerror or error}; free some space there, or name another "
        "folder in the environment variable TMPDIR"
    )
