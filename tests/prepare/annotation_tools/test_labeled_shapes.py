"""Shapes with class names to a map, and their class table."""

from __future__ import annotations

import numpy as np
import pytest

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.labeled_shapes import (
    LabelledShape,
    check_size,
    panoptic_of_shapes,
    table_of_names,
    with_stuff,
)
from panformer_cli.prepare.annotation_tools.shapes import Patch
from panformer_cli.prepare.overlap import OverlapRule

TABLE = CategoryTable([Category(1, "car", True), Category(8, "sky", False)])


def strip(label: str, start: int, stop: int, group: int | None = None) -> LabelledShape:
    """The columns start..stop - 1 of an image of one row."""
    return LabelledShape(label, Patch(np.ones((1, stop - start), np.bool_), 0, start), f"strip ({label})", group)


def drawn(shapes: list[LabelledShape], rule: OverlapRule = "last") -> tuple[list[int], dict[int, int]]:
    """The ids of eight pixels in a row, and the category of every id."""
    panoptic = panoptic_of_shapes(shapes, (1, 8), TABLE, rule, "here")
    return panoptic.ids[0].tolist(), {segment.id: segment.category_id for segment in panoptic.segments}


@pytest.mark.parametrize(
    ("rule", "ids"),
    [
        ("last", [1, 1, 0, 0, 3, 3, 0, 0]),
        ("first", [1, 1, 1, 1, 0, 3, 0, 0]),
        ("smallest", [1, 1, 0, 0, 3, 3, 0, 0]),
    ],
)
def test_void_is_drawn_by_the_rule_as_a_class_would_be(rule: OverlapRule, ids: list[int]) -> None:
    shapes = [strip("car", 0, 4), strip("__ignore__", 2, 5), strip("car", 4, 6)]
    assert drawn(shapes, rule) == (ids, {1: 1, 3: 1})


def test_a_class_may_be_called_as_void_is() -> None:
    table = CategoryTable([Category(3, "_background_", False)])
    panoptic = panoptic_of_shapes([strip("_background_", 0, 8)], (1, 8), table, "last", "here")
    assert [(segment.category_id, segment.area) for segment in panoptic.segments] == [(3, 8)]


def test_groups_join_things_of_one_class() -> None:
    shapes = [strip("car", 0, 1, 5), strip("sky", 0, 8, 5), strip("car", 2, 3, 5), strip("car", 4, 5, 6)]
    ids, categories = drawn(shapes, "first")
    assert ids == [1, 2, 1, 2, 2, 2, 2, 2] and categories == {1: 1, 2: 8}


def test_no_shape_is_all_void() -> None:
    assert drawn([]) == ([0] * 8, {})


def test_tables() -> None:
    table = table_of_names(["car", "_background_", "sky", "__ignore__"])
    assert table == CategoryTable([Category(1, "car", True), Category(2, "sky", True)])
    assert with_stuff(table, ["sky"]) == CategoryTable([Category(1, "car", True), Category(2, "sky", False)])
    assert with_stuff(TABLE, []) == TABLE
    with pytest.raises(DataError, match="--stuff sea: no class has this name; expected one of the classes car, sky"):
        with_stuff(TABLE, ["sea"])


def test_sizes() -> None:
    check_size((3, 4), (3, 4), "a.json")
    with pytest.raises(
        DataError, match=r"^a.json is for an image of 4x3 but the picture is shown as 5x3 \(width x height\);"
    ):
        check_size((3, 4), (3, 5), "a.json")
