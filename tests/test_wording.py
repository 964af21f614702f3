"""Lists and values in error messages."""

from __future__ import annotations

import pytest

from panformer_cli.wording import LISTED, first_items, listing, short, truncated


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([], ""),
        ([3, 1], "3, 1"),
        (range(3), "0, 1, 2"),
        (range(4), "0, 1, 2, and 1 more"),
        ((name for name in "abcdefg"), "a, b, c, and 4 more"),
    ],
)
def test_a_listing_gives_the_number_of_further_items(items: list[int], expected: str) -> None:
    assert listing(items, 3) == expected


def test_a_listing_of_sentences() -> None:
    assert listing(["a is 1", "b is 2", "c is 3"], 2, "; ") == "a is 1; b is 2; and 1 more"


def test_first_items_are_one_line_each() -> None:
    assert first_items(range(LISTED)) == [str(number) for number in range(LISTED)]
    assert first_items(range(100)) == [*(str(number) for number in range(LISTED)), f"and {100 - LISTED} more"]


def test_long_values_are_truncated() -> None:
    assert truncated("abcdef", 6) == "abcdef"
    assert truncated("abcdefg", 6) == "abc..."
    assert short("\n\u00e4") == r"'\n\xe4'"
    assert short("x" * 200) == "'" + "x" * 116 + "..."
