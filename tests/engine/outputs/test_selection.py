"""Segments that are kept, and categories that a user names."""

from __future__ import annotations

import numpy as np
import pytest

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.engine.outputs.options import OutputOptions
from panformer_cli.engine.outputs.selection import SegmentSelection, find_categories
from panformer_cli.errors import PanformerError
from tests.engine.outputs.results_of import segmented

TABLE = CategoryTable(
    [
        Category(1, "person", True),
        Category(3, "Hot Dog", True),
        Category(5, "door, double", False),
        Category(7, "sky", False),
        Category(8, "sky", False),
        Category(9, "3", False),
        Category(11, "wall-other-merged", False),
    ]
)


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        (["person"], {1}),
        (["PERSON , hot dog"], {1, 3}),
        (["1,7"], {1, 7}),
        (["sky"], {7, 8}),
        (["3"], {9}),
        (["door, double", "1"], {1, 5}),
        (["person,"], {1}),
        (["person", "person", "1"], {1}),
    ],
)
def test_names_and_ids_of_categories(given: list[str], ids: set[int]) -> None:
    assert find_categories(given, TABLE) == ids


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["persn"],
            r"has no category 'persn' \(did you mean person\?\); expected names or ids of its categories: person, ",
        ),
        (["person,wall,4"], r"no category 'wall' \(did you mean wall-other-merged\?\), '4'; expected"),
        (["wall-other"], r"'wall-other' \(did you mean wall-other-merged"),
        (["zebra"], r"no category 'zebra'; expected names or ids of its categories: person, Hot Dog, .*, and 2 more"),
        (["-1"], r"no category '-1'"),
        (["²"], r"no category '²'"),
        ([""], "--classes names no category"),
        ([" , "], "--classes names no category"),
    ],
)
def test_unknown_categories_are_reported_in_one_sentence(given: list[str], message: str) -> None:
    with pytest.raises(PanformerError, match=message) as caught:
        find_categories(given, TABLE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("selection", "kept"),
    [
        (SegmentSelection(), {3, 4, 7}),
        (SegmentSelection(frozenset([1, 2])), {3, 4}),
        (SegmentSelection(frozenset([9])), {7}),
        (SegmentSelection(min_area=9), {3, 7}),
        (SegmentSelection(frozenset([1, 9]), min_area=10), {7}),
        (SegmentSelection(min_area=100), set()),
    ],
)
def test_other_segments_become_void(selection: SegmentSelection, kept: set[int]) -> None:
    panoptic = segmented().panoptic
    before = panoptic.ids.copy()
    found = selection(panoptic)
    assert found.segments == tuple(segment for segment in panoptic.segments if segment.id in kept)
    assert found.ids.dtype == np.int32
    assert np.array_equal(found.ids, np.where(np.isin(before, list(kept)), before, 0))
    assert np.array_equal(panoptic.ids, before)


def test_the_options_of_a_prediction() -> None:
    assert OutputOptions().selection(TABLE) == SegmentSelection()
    assert OutputOptions(classes=("sky", "1"), min_area=3).selection(TABLE) == SegmentSelection(frozenset([1, 7, 8]), 3)
