"""Lists in a temporary database."""

from __future__ import annotations

import gc
import multiprocessing
import sqlite3
from typing import Any

import numpy as np
import pytest

from panformer_cli.data.disk_list import DiskList
from panformer_cli.errors import PanformerError


def test_a_disk_list_contains_the_added_items() -> None:
    rng = np.random.default_rng(0)
    rows, expected = DiskList[Any](["first"]), ["first"]
    for step in range(500):
        item = {"step": step, "content": "x" * int(rng.integers(0, 300))}
        rows.append(item)
        expected.append(item)  # type: ignore[arg-type]
        if step % 7 == 0:  # reading does not affect appending
            position = int(rng.integers(0, len(expected)))
            assert rows[position] == expected[position]
    rows.extend([None, (1, 2)])
    assert len(rows) == 503 and list(rows) == [*expected, None, (1, 2)]
    assert rows[-1] == (1, 2) and rows[1:4] == tuple(expected[1:4])
    with pytest.raises(IndexError):
        rows[503]


def test_an_empty_list() -> None:
    rows = DiskList[int](key=abs)
    assert len(rows) == 0 and list(rows) == [] and not rows
    assert rows.first(1) is None and list(rows.repeats()) == []


def test_two_iterators_of_one_list() -> None:
    rows = DiskList(range(10))
    assert list(zip(rows, reversed(rows), strict=True)) == list(zip(range(10), reversed(range(10)), strict=True))


def test_items_are_found_by_their_key() -> None:
    keys = [3, "a", -5, 3, "3", 2**70, "a", 3, "\ud800", "\0", b"a"]
    rows = DiskList([(key, number) for number, key in enumerate(keys)], key=lambda row: row[0])
    for key in keys:
        expected = [number for number, other in enumerate(keys) if other == key]
        assert list(rows.positions(key)) == expected and rows.first(key) == expected[0]
    assert rows.first("c") is rows.first(4) is None
    assert list(rows.repeats()) == [3, 6, 7]
    rows.append(("b", 11))
    rows.append((2**70, 12))
    assert rows.first("b") == 11 and list(rows.positions(2**70)) == [5, 12] and list(rows.repeats()) == [3, 6, 7, 12]


def test_items_can_be_added_and_found_during_iteration() -> None:
    rows = DiskList(range(5), key=lambda number: number % 3)
    for number in rows:
        if len(rows) < 10:
            rows.append(number + 5)
        assert rows.first(number % 3) == number % 3
    assert sorted(rows) == list(range(10))


def test_many_rows_of_one_key() -> None:
    rows = DiskList(range(5000), key=lambda number: 0)
    statements = list[str]()
    rows._database.set_trace_callback(statements.append)
    assert rows.first(0) == 0 and list(rows.repeats()) == list(range(1, 5000))
    assert len(statements) <= 3  # the index, the first row, the repeats


def test_a_full_disk_is_reported() -> None:
    rows = DiskList[Any](range(10))
    (size,) = rows._database.execute("PRAGMA page_count").fetchone()
    rows._database.execute(f"PRAGMA max_page_count = {size}")
    with pytest.raises(PanformerError, match="database or disk is full; free some space .*TMPDIR"):
        rows.extend(["x" * 1000] * 100)


def test_an_error_while_reading_is_reported() -> None:
    rows = DiskList(range(10))
    rows._database.execute("DROP TABLE items")
    with pytest.raises(PanformerError, match="cannot write or read a temporary file: no such table"):
        list(rows)


@pytest.mark.slow
def test_the_database_is_closed_with_the_list() -> None:
    rows = DiskList(range(10))
    database = rows._database
    del rows
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        database.execute("SELECT 1")


@pytest.mark.slow
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the system has no fork")
def test_forked_processes_do_not_affect_it() -> None:
    rows = DiskList(("x" * 1000 for _ in range(10000)), key=len)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(abs, range(10)) == list(range(10))
    assert sum(map(len, rows)) == 10**7
    rows.append("y")
    assert rows.first(1) == 10000
