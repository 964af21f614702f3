"""Merging labeled shapes into a map, and their category table."""

from __future__ import annotations

import numpy as np
import pytest

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.labeled_shapes import (
    LabeledShape,
    panoptic_of_shapes,
    table_of_names,
    with_stuff,
)
from panformer_cli.prepare.annotation_tools.shapes import Patch
from panformer_cli.prepare.left_out import AnnotationLog
from panformer_cli.prepare.overlap import OverlapRule

TABLE = CategoryTable([Category(1, "car", True), Category(8, "sky", False)])


def strip(label: str, start: int, stop: int, group: int | None = None) -> LabeledShape:
    """The columns start..stop - 1 of an image with one row."""
    return LabeledShape(label, Patch(np.ones((1, stop - start), np.bool_), 0, start), f"strip ({label})", group)


def drawn(shapes: list[LabeledShape], rule: OverlapRule = "last") -> tuple[list[int], dict[int, int]]:
    """Return the ids of eight pixels in a row, and the category of each id."""
    panoptic = panoptic_of_shapes(shapes, (1, 8), TABLE, rule, "here", AnnotationLog())
    return panoptic.ids[0].tolist(), {segment.id: segment.category_id for segment in panoptic.segments}


@pytest.mark.parametrize(
    ("rule", "ids"),
    [
        ("last", [1, 1, 0, 0, 3, 3, 0, 0]),
        ("first", [1, 1, 1, 1, 0, 3, 0, 0]),
        ("smallest", [1, 1, 0, 0, 3, 3, 0, 0]),
    ],
)
def test_void_follows_the_overlap_rule_like_a_class(rule: OverlapRule, ids: list[int]) -> None:
    shapes = [strip("car", 0, 4), strip("__ignore__", 2, 5), strip("car", 4, 6)]
    assert drawn(shapes, rule) == (ids, {1: 1, 3: 1})


def test_a_class_may_have_the_name_of_a_void_label() -> None:
    table = CategoryTable([Category(3, "_background_", False)])
    panoptic = panoptic_of_shapes([strip("_background_", 0, 8)], (1, 8), table, "last", "here", AnnotationLog())
    assert [(segment.category_id, segment.area) for segment in panoptic.segments] == [(3, 8)]


def test_groups_join_things_of_one_class() -> None:
    shapes = [strip("car", 0, 1, 5), strip("sky", 0, 8, 5), strip("car", 2, 3, 5), strip("car", 4, 5, 6)]
    ids, categories = drawn(shapes, "first")
    assert ids == [1, 2, 1, 2, 2, 2, 2, 2] and categories == {1: 1, 2: 8}


def test_no_shapes_give_a_void_map() -> None:
    assert drawn([]) == ([0] * 8, {})


def test_tables() -> None:
    table = table_of_names(["car", "_background_", "sky", "__ignore__"])
    assert table == CategoryTable([Category(1, "car", True), Category(2, "sky", True)])
    assert with_stuff(table, ["sky"]) == CategoryTable([Category(1, "car", True), Category(2, "sky", False)])
    assert with_stuff(TABLE, []) == TABLE
    with pytest.raises(DataError, match="--stuff sea: unknown class; expected one of the classes car, sky"):
        with_stuff(TABLE, ["sea"])
