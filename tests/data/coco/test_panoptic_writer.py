"""Writing COCO's panoptic format."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.coco.panoptic_writer import annotation_row, panoptic_json, segment_row, segments_of
from panformer_cli.data.structures import PanopticMap, Segment

CATEGORIES = CategoryTable([Category(7, "box", True), Category(200, "sky", False, (1, 2, 3))])
MAPS = hnp.arrays(
    np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 1, 5, 256**3 - 1])
)


@given(MAPS)
def test_areas_and_boxes_equal_those_of_a_plain_loop(ids: np.ndarray) -> None:
    pixels: dict[int, list[tuple[int, int]]] = {}
    for y, row in enumerate(ids.tolist()):
        for x, segment_id in enumerate(row):
            pixels.setdefault(segment_id, []).append((x, y))
    segments = segments_of(ids, {1: 7, 5: 200, 256**3 - 1: 7}, crowd_ids=[5])
    assert [segment.id for segment in segments] == sorted(set(pixels) - {0})
    for segment in segments:
        xs, ys = zip(*pixels[segment.id], strict=True)
        assert segment.area == len(xs)
        assert segment.bbox == (min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1)
        assert segment.category_id == {1: 7, 5: 200, 256**3 - 1: 7}[segment.id]
        assert segment.is_crowd == (segment.id == 5)
        assert segment.score is None


def test_separate_parts_of_an_id_are_one_segment() -> None:
    ids = np.array([[3, 0, 3, 3], [0, 0, 0, 0], [3, 9, 0, 0]], np.int32)
    assert segments_of(ids, {3: 7, 9: 7}) == (Segment(3, 7, 4, (0, 0, 4, 3)), Segment(9, 7, 1, (1, 2, 1, 1)))


def test_void_and_empty_maps_have_no_segments() -> None:
    assert segments_of(np.zeros((4, 5), np.int32), {1: 7}) == ()
    assert segments_of(np.zeros((0, 5), np.int32), {1: 7}) == ()


def test_an_id_without_a_category_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        segments_of(np.full((2, 2), 4, np.int32), {1: 7})


def test_rows_of_ground_truth_and_of_predictions() -> None:
    truth = Segment(5, 200, 12, (1.0, 2.0, 4.0, 3.0), is_crowd=True)
    row = segment_row(truth)
    assert row == {"id": 5, "category_id": 200, "area": 12, "bbox": [1, 2, 4, 3], "iscrowd": 1}
    assert all(isinstance(value, int) for value in row["bbox"])
    predicted = Segment(6, 7, 12, (1.5, 2.0, 4.0, 3.0), score=0.25)
    assert segment_row(predicted, CATEGORIES) == {
        "id": 6,
        "category_id": 7,
        "area": 12,
        "bbox": [1.5, 2, 4, 3],
        "iscrowd": 0,
        "score": 0.25,
        "category_name": "box",
        "isthing": 1,
    }


def test_the_file_is_json_with_the_parts_of_coco() -> None:
    ids = np.array([[0, 8]], np.int32)
    annotation = annotation_row(31, "a.png", PanopticMap(ids, segments_of(ids, {8: 200})))
    image = {"id": 31, "file_name": "a.jpg", "height": 1, "width": 2}
    content = json.loads(json.dumps(panoptic_json([image], [annotation], CATEGORIES, {"year": 2000})))
    assert content == {
        "info": {"year": 2000},
        "images": [image],
        "annotations": [
            {
                "image_id": 31,
                "file_name": "a.png",
                "segments_info": [{"id": 8, "category_id": 200, "area": 1, "bbox": [1, 0, 1, 1], "iscrowd": 0}],
            }
        ],
        "categories": [
            {"id": 7, "name": "box", "isthing": 1},
            {"id": 200, "name": "sky", "isthing": 0, "color": [1, 2, 3]},
        ],
    }
    assert "info" not in panoptic_json([], [], CATEGORIES)
