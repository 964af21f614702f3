"""Overlapping masks: compared with a pixel-by-pixel implementation of the rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.left_out import AnnotationLog
from panformer_cli.prepare.overlap import OVERLAP_RULES, Layer, OverlapRule, panoptic_of_layers

CAR, TREE, ROAD = 4, 5, 9
TABLE = CategoryTable([Category(CAR, "car", True), Category(TREE, "tree", True), Category(ROAD, "road", False)])
SIZE = (4, 6)


def box(category_id: int, top: int, left: int, bottom: int, right: int, is_crowd: bool = False) -> Layer:
    """Return a full-image mask that is True in a box."""
    mask = np.zeros(SIZE, np.bool_)
    mask[top:bottom, left:right] = True
    return Layer(category_id, mask, f"box {top} {left}", is_crowd=is_crowd)


def merged(layers: Sequence[Layer], rule: OverlapRule) -> PanopticMap:
    return panoptic_of_layers(layers, SIZE, TABLE, rule, "a.json", AnnotationLog())


def rows(panoptic: PanopticMap) -> list[str]:
    return ["".join(map(str, row)) for row in panoptic.ids.tolist()]


BIG, SMALL, OTHER = box(CAR, 0, 0, 3, 4), box(CAR, 1, 1, 2, 5), box(TREE, 1, 3, 4, 5)  # areas 12, 4, 6


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("last", ["111100", "122330", "111330", "000330"]),
        ("first", ["111100", "111120", "111130", "000330"]),
        ("smallest", ["111100", "122220", "111330", "000330"]),
    ],
)
def test_rules(rule: OverlapRule, expected: list[str]) -> None:
    assert rows(merged([BIG, SMALL, OTHER], rule)) == expected


def test_the_error_names_both_layers_and_the_shared_pixels() -> None:
    with pytest.raises(DataError, match=r"^a\.json: box 1 1 and box 0 0 share 3 pixels; .*--overlap last, first or"):
        merged([BIG, SMALL], "error")
    assert rows(merged([SMALL, box(TREE, 2, 0, 4, 6)], "error")) == ["000000", "011110", "222222", "222222"]


def test_of_equal_areas_the_first_counts_as_smallest() -> None:
    layers = [box(CAR, 0, 0, 2, 2), box(CAR, 0, 1, 2, 3), box(CAR, 1, 0, 3, 2)]
    assert rows(merged(layers, "smallest")) == ["112000", "112000", "330000", "000000"]


def test_every_segment_has_its_own_pixels_area_and_box() -> None:
    segments = merged([BIG, SMALL, OTHER], "last").segments
    assert [(s.id, s.category_id, s.area, s.bbox, s.is_crowd) for s in segments] == [
        (1, CAR, 8, (0, 0, 4, 3), False),
        (2, CAR, 2, (1, 1, 2, 1), False),
        (3, TREE, 6, (3, 1, 2, 3), False),
    ]


def test_a_covered_segment_is_dropped_and_its_id_stays_unused() -> None:
    panoptic = merged([SMALL, BIG, box(TREE, 3, 0, 4, 6), box(CAR, 1, 4, 2, 5)], "last")
    assert [segment.id for segment in panoptic.segments] == [2, 3, 4]


def test_a_cropped_mask_keeps_its_position() -> None:
    whole = [BIG, SMALL, OTHER]
    cropped = [
        Layer(CAR, np.ones((3, 4), np.bool_), "", 0, 0),
        Layer(CAR, np.ones((1, 4), np.bool_), "", 1, 1),
        Layer(TREE, np.ones((3, 2), np.bool_), "", 1, 3),
    ]
    for rule in ("last", "first", "smallest"):
        assert rows(merged(cropped, rule)) == rows(merged(whole, rule))


def test_a_cropped_mask_is_clipped_to_the_image() -> None:
    assert rows(merged([Layer(CAR, np.ones((9, 9), np.bool_), "", 2, 4)], "last"))[1:] == ["000000", "000011", "000011"]


def test_stuff_of_a_class_is_one_segment_with_any_rule() -> None:
    layers = [box(ROAD, 0, 0, 1, 6), BIG, box(ROAD, 0, 0, 4, 1)]
    assert rows(merged(layers, "last")) == ["122211", "122200", "122200", "100000"]
    assert rows(merged(layers, "first")) == ["111111", "222200", "222200", "100000"]
    apart = [box(ROAD, 0, 0, 2, 2), box(ROAD, 1, 1, 3, 3)]
    assert [(s.id, s.category_id, s.area) for s in merged(apart, "error").segments] == [(1, ROAD, 7)]


def test_crowds_of_a_class_are_one_segment_separate_from_its_objects() -> None:
    layers = [
        box(CAR, 0, 0, 1, 2, is_crowd=True),
        box(CAR, 1, 0, 2, 2),
        box(CAR, 2, 0, 3, 2, is_crowd=True),
        box(TREE, 3, 0, 4, 2, is_crowd=True),
    ]
    panoptic = merged(layers, "error")
    assert rows(panoptic) == ["110000", "220000", "110000", "330000"]
    assert [(s.category_id, s.is_crowd) for s in panoptic.segments] == [(CAR, True), (CAR, False), (TREE, True)]


def test_a_crowd_is_drawn_like_an_object() -> None:
    layers = [box(CAR, 1, 1, 2, 3), box(CAR, 0, 0, 3, 4, is_crowd=True)]
    assert rows(merged(layers, "last")) == ["222200", "222200", "222200", "000000"]
    for rule in ("first", "smallest"):
        assert rows(merged(layers, rule)) == ["222200", "211200", "222200", "000000"]


def test_no_layers_give_a_void_map() -> None:
    panoptic = merged([], "last")
    assert not panoptic.ids.any() and panoptic.segments == () and panoptic.ids.shape == SIZE


boxes = st.lists(
    st.builds(box, st.sampled_from([CAR, TREE, ROAD]), *[st.integers(0, 4)] * 4, st.booleans()), max_size=6
)


def pixel_by_pixel(layers: Sequence[Layer], rule: OverlapRule) -> npt.NDArray[np.int32]:
    """Apply the rules as documented, pixel by pixel."""
    keys: list[tuple[object, ...]] = []
    number_of: list[int] = []
    for place, layer in enumerate(layers):
        is_stuff = layer.category_id == ROAD  # never a crowd
        key = (layer.category_id, layer.is_crowd and not is_stuff) if layer.is_crowd or is_stuff else ("object", place)
        keys += [key] if key not in keys else []
        number_of.append(keys.index(key) + 1)
    areas = [int(layer.mask.sum()) for layer in layers]
    ids = np.zeros(SIZE, np.int32)
    for pixel in np.ndindex(*SIZE):
        claims = [place for place, layer in enumerate(layers) if layer.mask[pixel]]
        if claims:
            winner = {"last": claims[-1], "first": claims[0], "smallest": min(claims, key=lambda c: (areas[c], c))}[
                rule
            ]
            ids[pixel] = number_of[winner]
    return ids


@settings(deadline=None, max_examples=50)
@given(boxes)
def test_matches_the_rules_pixel_by_pixel(layers: list[Layer]) -> None:
    for rule in ("last", "first", "smallest"):
        panoptic = merged(layers, rule)
        expected = pixel_by_pixel(layers, rule)
        assert np.array_equal(panoptic.ids, expected)
        assert [segment.id for segment in panoptic.segments] == sorted(set(expected[expected > 0].tolist()))
        assert not any(segment.is_crowd for segment in panoptic.segments if segment.category_id == ROAD)


def test_ids_do_not_depend_on_the_rule() -> None:
    """A pixel covered by only one mask has the same id with every rule."""
    layers = [BIG, SMALL, OTHER, box(ROAD, 3, 0, 4, 3), box(CAR, 0, 5, 1, 6)]
    alone = sum(layer.mask.astype(int) for layer in layers) == 1
    maps = [merged(layers, rule).ids[alone].tolist() for rule in OVERLAP_RULES if rule != "error"]
    assert maps[0] == maps[1] == maps[2] and set(maps[0]) == {1, 3, 4, 5}


def test_masks_that_leave_no_segment_are_counted() -> None:
    log = AnnotationLog()
    layers = [SMALL, BIG, box(TREE, 0, 0, 0, 0), box(CAR, 0, 0, 4, 6), box(ROAD, 0, 0, 1, 1), box(ROAD, 0, 0, 0, 0)]
    panoptic_of_layers(layers, SIZE, TABLE, "last", "a.json", log)
    assert log.left_out == [
        ("covered by other annotations", "a.json: other annotations cover all pixels of box 1 1"),
        ("covered by other annotations", "a.json: other annotations cover all pixels of box 0 0"),
        ("no pixels in the image", "a.json: box 0 0 has no pixels"),
        ("no pixels in the image", "a.json: box 0 0 has no pixels"),
    ]
