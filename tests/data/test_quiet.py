"""Warnings are ignored while a thread reads an image, and only then."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from panformer_cli.data.quiet import NoWarnings


def test_the_last_thread_restores_the_filters() -> None:
    """The first thread to enter leaves first: `warnings.catch_warnings` would leave all warnings ignored."""
    quiet, inside, left = NoWarnings(), Barrier(2, timeout=10), Barrier(2, timeout=10)
    before = list(warnings.filters)

    def first() -> None:
        with quiet:
            inside.wait()
        left.wait()

    def second() -> list[object]:
        with quiet:
            inside.wait()
            left.wait()
            return list(warnings.filters)

    with ThreadPoolExecutor(2) as pool:
        done, filters = pool.submit(first), pool.submit(second)
        done.result(timeout=10)
        assert filters.result(timeout=10) != before
    assert list(warnings.filters) == before


def test_an_error_restores_the_filters() -> None:
    quiet, before = NoWarnings(), list(warnings.filters)
    for _ in range(2):
        try:
            with quiet:
                warnings.warn("not shown", stacklevel=1)
                raise KeyError
        except KeyError:
            pass
        assert list(warnings.filters) == before
