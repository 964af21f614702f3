"""The forms of a segmentation, against PIL, pycocotools and cases worked by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.engine.outputs.views import (
    SEMANTIC_VOID,
    cut_out,
    feature_collection,
    image_record,
    instance_map,
    polygons,
    run_lengths,
    segment_mask,
    semantic_map,
)
from panformer_cli.errors import DataError

CATEGORIES = CategoryTable([Category(0, "person", True), Category(7, "dog", True), Category(200, "sky", False)])
IDS = np.array(
    [
        [9, 9, 9, 9, 9, 0],
        [9, 3, 3, 3, 9, 0],
        [9, 3, 5, 3, 9, 4],
        [9, 3, 3, 3, 9, 4],
    ],
    np.int32,
)
SEGMENTS = (
    Segment(3, 0, 8, (1, 1, 3, 3), score=0.5),
    Segment(4, 7, 2, (5, 2, 1, 2), score=0.75),
    Segment(5, 7, 1, (2, 2, 1, 1), score=0.25),
    Segment(9, 200, 11, (0, 0, 5, 4), score=1.25),
)
MAP = PanopticMap(IDS, SEGMENTS)
IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) + 100


def test_a_semantic_map_has_category_ids_and_its_own_value_for_void() -> None:
    values = {0: 65535, 3: 0, 4: 7, 5: 7, 9: 200}
    found = semantic_map(MAP, CATEGORIES)
    assert found.dtype == np.uint16
    assert found.tolist() == [[values[number] for number in row] for row in IDS.tolist()]
    assert SEMANTIC_VOID == 65535


def test_an_instance_map_has_only_things() -> None:
    found = instance_map(MAP, CATEGORIES)
    assert found.dtype == np.uint16
    assert found.tolist() == [[number if number != 9 else 0 for number in row] for row in IDS.tolist()]


def test_ids_that_are_not_listed_are_void() -> None:
    panoptic = PanopticMap(IDS, SEGMENTS[:1])
    assert set(np.unique(semantic_map(panoptic, CATEGORIES)).tolist()) == {0, 65535}
    assert set(np.unique(instance_map(panoptic, CATEGORIES)).tolist()) == {0, 3}


def test_values_above_16_bits_are_an_error_and_not_a_wrap() -> None:
    ids = np.array([[65535, 65536]], np.int32)
    table = CategoryTable([Category(1, "person", True), Category(65534, "dog", True), Category(65535, "sky", False)])

    def of(*rows: tuple[int, int]) -> PanopticMap:
        return PanopticMap(ids, tuple(Segment(number, category, 1, (0, 0, 1, 1)) for number, category in rows))

    assert instance_map(of((65535, 1), (65536, 65535)), table).tolist() == [[65535, 0]], "stuff may have any id"
    assert semantic_map(of((65535, 65534)), table).tolist() == [[65534, 65535]]
    with pytest.raises(DataError, match=r"segment id 65536 does not fit into a 16-bit instance map .* is 65535"):
        instance_map(of((65536, 1)), table)
    with pytest.raises(DataError, match=r"category id 65535 does not fit into a 16-bit semantic map.* is 65534"):
        semantic_map(of((65536, 65535)), table)


def test_masks_of_a_segment() -> None:
    for segment in SEGMENTS:
        mask, boxed = segment_mask(MAP, segment), MAP.boxed_mask(segment)
        x, y, width, height = map(int, segment.bbox)
        assert mask.dtype == boxed.dtype == np.bool_ and mask.sum() == boxed.sum() == segment.area
        assert np.array_equal(mask[y : y + height, x : x + width], boxed)


def test_a_cut_out_has_the_pixels_of_its_segment_and_no_others() -> None:
    before = IMAGE.copy()
    found = cut_out(IMAGE, MAP, SEGMENTS[0])
    assert found.shape == (3, 3, 4) and found.dtype == np.uint8
    inside = IDS[1:4, 1:4] == 3
    assert np.array_equal(found[..., 3], np.where(inside, 255, 0))
    assert np.array_equal(found[inside][:, :3], IMAGE[1:4, 1:4][inside])
    assert not found[~inside].any()
    assert np.array_equal(IMAGE, before) and not np.shares_memory(found, IMAGE)


def drawn(rings: list[list[list[int]]], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels of one polygon with holes, drawn by PIL at eight times the size and sampled at the centers."""
    canvas = Image.new("1", (size[1] * 8, size[0] * 8))
    for number, ring in enumerate(rings):
        ImageDraw.Draw(canvas).polygon([(8 * x, 8 * y) for x, y in ring], fill=int(number == 0))
    return np.array(canvas)[4::8, 4::8]


def test_polygons_contain_exactly_the_pixels() -> None:
    (part,) = polygons(MAP, SEGMENTS[0])
    assert sorted(map(tuple, part.outer.astype(int).tolist())) == [(1, 1), (1, 4), (4, 1), (4, 4)]
    assert [sorted(map(tuple, hole.astype(int).tolist())) for hole in part.holes] == [[(2, 2), (2, 3), (3, 2), (3, 3)]]
    content = json.loads(json.dumps(feature_collection(MAP, CATEGORIES)))
    assert content["type"] == "FeatureCollection" and len(content["features"]) == 4
    for feature, segment in zip(content["features"], SEGMENTS, strict=True):
        assert feature["properties"]["id"] == feature["id"] == segment.id
        assert feature["geometry"]["type"] == "MultiPolygon"
        found = np.zeros(IDS.shape, np.bool_)
        for rings in feature["geometry"]["coordinates"]:
            assert all(ring[0] == ring[-1] for ring in rings)
            found |= drawn(rings, IDS.shape)
        assert np.array_equal(found, np.equal(IDS, segment.id))


def test_a_record_can_be_decoded_by_pycocotools() -> None:
    record = json.loads(json.dumps(image_record("a-1", "in/a.jpg", MAP, CATEGORIES)))
    assert record["image"] == {"id": "a-1", "file_name": "in/a.jpg", "height": 4, "width": 6}
    for row, segment in zip(record["segments"], SEGMENTS, strict=True):
        mask = coco_mask.decode(row["segmentation"])
        assert np.array_equal(mask, np.equal(IDS, segment.id))
        assert (coco_mask.area(row["segmentation"]), coco_mask.toBbox(row["segmentation"]).tolist()) == (
            row["area"],
            row["bbox"],
        )
    first = {key: value for key, value in record["segments"][0].items() if key != "segmentation"}
    assert first == {
        **{"id": 3, "category_id": 0, "category_name": "person", "isthing": 1},
        **{"area": 8, "bbox": [1, 1, 3, 3], "iscrowd": 0, "score": 0.5},
    }


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (5, 6), (40, 30)])
def test_run_lengths_are_those_of_pycocotools(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(size[0])
    for number in range(20):
        ids = generator.integers(0, 3 if number % 2 else 2, size).astype(np.int32)
        if number % 5 == 0:
            ids[:, generator.integers(size[1]) :] = 1  # whole columns
        for segment in segments_of(ids, {1: 0, 2: 7}):
            expected = coco_mask.encode(np.asfortranarray(ids == segment.id, np.uint8))
            found = run_lengths(PanopticMap(ids, ()), segment)
            assert found == {"size": list(size), "counts": expected["counts"].decode()}


def test_an_image_without_segments() -> None:
    empty = PanopticMap(np.zeros((2, 3), np.int32), ())
    assert semantic_map(empty, CATEGORIES).tolist() == [[65535] * 3] * 2
    assert instance_map(empty, CATEGORIES).tolist() == [[0] * 3] * 2
    assert image_record(1, "a.jpg", empty, CATEGORIES)["segments"] == []
    assert feature_collection(empty, CATEGORIES)["features"] == []
