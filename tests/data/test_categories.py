"""The category table."""

from __future__ import annotations

import pytest

from panformer_cli.data.categories import Category, CategoryTable

TABLE = CategoryTable([Category(1, "cat", True), Category(5, "sky", False, (1, 2, 3))])


@pytest.mark.parametrize(
    ("categories", "expected"),
    [
        ([Category(5, "air", False), Category(1, "dog", True, (4, 5, 6))], True),
        ([Category(1, "cat", True)], False),
        ([Category(1, "cat", True), Category(6, "sky", False)], False),
        ([Category(1, "cat", False), Category(5, "sky", False)], False),
        ([Category(1, "cat", True), Category(5, "sky", False), Category(7, "road", False)], False),
    ],
    ids=["other names and colors", "one fewer", "another id", "stuff for a thing", "one more"],
)
def test_labels_are_equal_if_ids_and_types_are(categories: list[Category], expected: bool) -> None:
    other = CategoryTable(categories)
    assert TABLE.has_labels_of(other) is other.has_labels_of(TABLE) is expected
