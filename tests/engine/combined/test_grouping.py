"""Joining masks of several tiles or views: at most one of each."""

from __future__ import annotations

import pytest

from panformer_cli.engine.combined.grouping import join_groups


@pytest.mark.parametrize(
    ("owners", "pairs", "groups"),
    [
        ("abc", [], [[0], [1], [2]]),
        ("abc", [(0, 1), (1, 2)], [[0, 1, 2]]),
        ("abcd", [(2, 3), (0, 1), (1, 3)], [[0, 1, 2, 3]]),
        ("aab", [(0, 2), (1, 2)], [[0, 2], [1]]),  # the more certain pair wins
        ("aab", [(1, 2), (0, 2)], [[0], [1, 2]]),
        ("abab", [(0, 1), (2, 3), (1, 2)], [[0, 1], [2, 3]]),  # joining them would join two of `a`
        ("abca", [(0, 1), (2, 3), (1, 2)], [[0, 1], [2, 3]]),
    ],
)
def test_groups(owners: str, pairs: list[tuple[int, int]], groups: list[list[int]]) -> None:
    assert join_groups(owners, pairs) == groups
