"""Image overlaps: the table of shared pixels compared with a plain loop, and JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.errors import DataError
from panformer_cli.metrics.image_overlap import ImageOverlap, compare

FAR_IDS = [7, 300, 70000, 2**24 - 1]


def random_map(seed: int, shape: tuple[int, int], ids: list[int]) -> PanopticMap:
    """Return random blocks of ids and void, with the segments in random order."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice([0, *ids], size=shape).astype(np.int32)
    drawn = np.repeat(np.repeat(blocks, 2, axis=0), 3, axis=1)
    found = [int(number) for number in rng.permutation(np.unique(drawn)) if number]
    rows = (Segment(number, number % 5, int((drawn == number).sum()), (0.0, 1.0, 2.0, 3.5)) for number in found)
    return PanopticMap(drawn, tuple(rows))


def plain_overlap(prediction: PanopticMap, truth: PanopticMap) -> np.ndarray:
    """Return the same table, computed pixel by pixel."""
    rows = {segment.id: index for index, segment in enumerate(truth.segments)} | {0: len(truth.segments)}
    columns = {segment.id: index for index, segment in enumerate(prediction.segments)} | {0: len(prediction.segments)}
    table = np.zeros((len(truth.segments) + 2, len(prediction.segments) + 1), int)
    for true, predicted in zip(truth.ids.flat, prediction.ids.flat, strict=True):
        table[rows.get(int(true), len(truth.segments) + 1), columns[int(predicted)]] += 1
    return table


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 6), width=st.integers(1, 6), unlisted=st.booleans())
def test_shared_pixels_equal_those_of_a_plain_loop(seed: int, height: int, width: int, unlisted: bool) -> None:
    prediction = random_map(seed, (height, width), FAR_IDS[:3])
    truth = random_map(seed + 1, (height, width), FAR_IDS)
    if unlisted:
        truth = replace(truth, segments=truth.segments[1:])
    record = compare(prediction, truth)
    np.testing.assert_array_equal(record.overlap, plain_overlap(prediction, truth))
    assert record.predicted_pixels.tolist() == [segment.area for segment in prediction.segments]
    assert record.truth_pixels.tolist() == [segment.area for segment in truth.segments]
    assert record.overlap.sum() == truth.ids.size


def test_json_is_lossless() -> None:
    record = compare(random_map(3, (9, 7), FAR_IDS), random_map(4, (9, 7), FAR_IDS), "a", "b/c.jpg")
    scored = tuple(replace(segment, score=1 / 3) for segment in record.predictions)
    crowded = (replace(record.truth[0], is_crowd=True), *record.truth[1:])
    boundary = np.zeros(record.shared.shape)
    boundary[0, 1] = 2 / 3
    record = replace(record, predictions=scored, truth=crowded, boundary_iou=boundary)
    read = ImageOverlap.from_json(json.loads(json.dumps(record.to_json())))
    np.testing.assert_array_equal(read.overlap, record.overlap)
    np.testing.assert_array_equal(read.boundary_iou, record.boundary_iou)
    assert (read.truth, read.predictions, read.size) == (record.truth, record.predictions, (18, 21))
    assert (read.image_id, read.file_name) == ("a", "b/c.jpg")
    assert ImageOverlap.from_json(replace(record, boundary_iou=None).to_json()).boundary_iou is None


def test_disagreements_of_map_and_list_are_reported() -> None:
    ids = np.array([[1, 1, 2, 9]], np.int32)
    prediction = PanopticMap(np.ones((1, 4), np.int32), (Segment(1, 0, 4, (0, 0, 4, 1)),))
    rows = [Segment(1, 0, 2, (0, 0, 2, 1)), Segment(2, 0, 5, (2, 0, 1, 1)), Segment(3, 0, 1, (0, 0, 1, 1))]
    record = compare(prediction, PanopticMap(ids, tuple(rows)))
    assert record.disagreements == [
        "areas of segments 2 differ from their pixel counts",
        "segments 3 have no pixels",
        "1 pixels belong to no listed segment",
    ]
    agreeing = compare(prediction, prediction)
    assert agreeing.disagreements == []


@pytest.mark.parametrize("ids", [[[1, 4]], [[-3, 1]]])
def test_a_prediction_must_list_its_ids(ids: list[list[int]]) -> None:
    one = PanopticMap(np.array([[1, 1]], np.int32), (Segment(1, 0, 2, (0, 0, 2, 1)),))
    with pytest.raises(DataError, match=r"^x, prediction: the map contains ids"):
        compare(PanopticMap(np.array(ids, np.int32), one.segments), one, file_name="x")
