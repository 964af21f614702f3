"""Rows that are not kept in memory."""

from __future__ import annotations

import errno
import tempfile
from typing import Any

import numpy as np
import pytest

from panformer_cli.data.disk_list import KeyedSpool, KeyPlaces, Spool
from panformer_cli.errors import PanformerError


def test_a_spool_is_the_sequence_of_what_was_added() -> None:
    rng = np.random.default_rng(0)
    spool, expected = Spool[Any](["first"]), ["first"]
    for step in range(500):
        item = {"step": step, "content": "x" * int(rng.integers(0, 300))}
        spool.append(item)
        expected.append(item)  # type: ignore[arg-type]
        if step % 7 == 0:  # reading in between does not disturb what is added
            place = int(rng.integers(0, len(expected)))
            assert spool[place] == expected[place]
    spool.extend([None, (1, 2)])
    assert len(spool) == 503 and list(spool) == [*expected, None, (1, 2)]
    assert spool[-1] == (1, 2) and spool[1:4] == tuple(expected[1:4])
    with pytest.raises(IndexError):
        spool[503]


def test_an_empty_spool() -> None:
    assert len(Spool[int]()) == 0 and list(Spool[int]()) == [] and not Spool[int]()


def test_two_iterators_of_one_spool() -> None:
    spool = Spool(range(10))
    assert list(zip(spool, reversed(spool), strict=True)) == list(zip(range(10), reversed(range(10)), strict=True))


def test_a_full_disk_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool[int]()

    class Full:
        def write(self, content: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spool, "_file", Full())
    with pytest.raises(PanformerError, match="No space left on device; free some space there.*TMPDIR"):
        spool.append(1)


def test_a_folder_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(PanformerError, match="cannot write a temporary file in /nowhere"):
        Spool[int]()


def test_keys_are_found_where_they_stand() -> None:
    keys = [3, "a", -5, 3, "b", 2**70, "a", 3]
    places = KeyPlaces(keys)
    for key in keys:
        assert list(places.of(key)) == [number for number, other in enumerate(keys) if other == key]
    assert list(places.of("c")) == list(places.of(4)) == []
    assert sorted(places.repeated()) == [[0, 3, 7], [1, 6]]


def test_keys_of_one_hash_are_all_told() -> None:
    assert hash(-1) == hash(-2)
    places = KeyPlaces([-1, 0, -2])
    assert list(places.of(-1)) == list(places.of(-2)) == [0, 2] and list(places.repeated()) == [[0, 2]]


def test_no_keys() -> None:
    places = KeyPlaces([])
    assert list(places.of(1)) == [] and list(places.repeated()) == []


def test_rows_are_found_by_their_key() -> None:
    rows = [(-1, "a"), ("x", "b"), (-2, "c"), ("x", "d"), (-1, "e"), ("x", "f")]  # -1 and -2 have one hash
    spool = KeyedSpool[Any, str](rows)
    assert list(spool) == rows and len(spool) == 6 and spool[3] == ("x", "d")
    assert [list(spool.places(key)) for key in (-1, -2, "x", "y")] == [[0, 4], [2], [1, 3, 5], []]
    assert [spool.first(key) for key in (-1, -2, "x", "y")] == [0, 2, 1, None]
    assert spool.repeats() == [3, 4, 5]
    spool.append("y", "g")
    assert spool.first("y") == 6 and spool.repeats() == [3, 4, 5]


def test_keys_that_are_all_the_same_are_read_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    spool = KeyedSpool[int, int]((0, number) for number in range(500))
    reads = 0
    item = Spool._item

    def counted(self: Spool[Any], place: int) -> Any:
        nonlocal reads
        reads += 1
        return item(self, place)

    monkeypatch.setattr(Spool, "_item", counted)
    assert spool.repeats() == list(range(1, 500)) and reads <= 1000
    assert spool.first(0) == 0 and reads <= 1001


def test_where_no_folder_can_be_used_this_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    with pytest.raises(PanformerError, match="in any of the usual folders: No usable temporary directory.*TMPDIR"):
        Spool[int]()
