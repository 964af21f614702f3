"""Prefetching and finishing in threads: order, bounds, errors and concurrency."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from panformer_cli.engine.prefetch import ahead, behind


@pytest.mark.parametrize("count", [1, 2, 50])
def test_items_keep_their_order(count: int) -> None:
    assert list(ahead(range(20), count)) == list(range(20))
    assert list(ahead([], count)) == []
    assert list(ahead([None, None], count)) == [None, None]


@pytest.mark.parametrize("workers", [1, 3])
def test_results_keep_the_order_of_the_items(workers: int) -> None:
    gate = threading.Event()

    def work(number: int) -> int:
        if number == 0 and workers > 1:
            assert gate.wait(10), "the others are done beside the first"
        if number == 1:
            gate.set()
        return number**2

    assert list(behind(range(20), work, workers)) == [number**2 for number in range(20)]
    assert list(behind([], work, workers)) == []


def test_the_next_items_are_read_while_one_is_in_use() -> None:
    read = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for number in range(5):
            read.release()
            yield number

    found = ahead(items(), 2)
    assert next(found) == 0
    for _ in range(3):
        assert read.acquire(timeout=10), "the item in use and two more"
    assert list(found) == [1, 2, 3, 4]


def test_unfinished_results_are_bounded() -> None:
    made = finished = most = 0
    lock = threading.Lock()

    def items() -> Iterator[int]:
        nonlocal made, most
        for number in range(30):
            with lock:
                made += 1
                most = max(most, made - finished)
            yield number

    for _ in behind(items(), lambda number: number, 2):
        with lock:
            finished += 1
    assert (made, finished) == (30, 30)
    assert most <= 2 * 2 + 2, "four wait, one is on its way in and one on its way out"


def test_errors_are_raised_in_order() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("unreadable")

    found = ahead(items(), 3)
    assert next(found) == 1
    with pytest.raises(ValueError, match="unreadable"):
        next(found)

    def work(number: int) -> int:
        return 6 // number

    results = behind([3, 2, 0, 1], work, 1)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_after_the_end_nothing_is_begun() -> None:
    """Ctrl-C must not wait until all queued addresses have been read."""
    begun: list[int] = []
    full, gate = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        for number in range(50):
            if number == 4:
                full.set()
            yield number

    def work(number: int) -> int:
        begun.append(number)
        assert (full if number == 0 else gate).wait(10)
        return number

    found = behind(items(), work, 2)
    assert next(found) == 0
    threading.Timer(0.1, gate.set).start()
    found.close()  # type: ignore[attr-defined]  # a generator
    assert sorted(begun) == [0, 1, 2], "the first one, and two that were running"
