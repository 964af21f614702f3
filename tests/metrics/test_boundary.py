"""Boundary IoU, compared with a plain computation with one mask per segment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.metrics.boundary import boundary_ious, with_boundaries
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.metrics.matching import match_segments

TABLE = CategoryTable([Category(1, "dog", True), Category(2, "cat", True), Category(3, "sky", False)])
TOP = 256**3 - 1


def listed(ids: np.ndarray, categories: dict[int, int], crowd: tuple[int, ...] = ()) -> PanopticMap:
    rows = [Segment(i, category, int((ids == i).sum()), (0, 0, 0, 0), i in crowd) for i, category in categories.items()]
    return PanopticMap(ids.astype(np.int32), tuple(rows))


def random_pair(seed: int) -> tuple[PanopticMap, PanopticMap]:
    """Return rectangles, shifted by some pixels in the prediction; with void, crowds and unlisted ids."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(20, 90, 2))
    ids = rng.choice([0, 1, 2, 300, 70000, TOP, TOP - 1], size=4, replace=False).tolist()
    truth = np.full((height, width), ids[0])
    predicted = truth.copy()
    for number in (*ids[1:], *ids[1:3]):
        top, left = int(rng.integers(height - 5)), int(rng.integers(width - 5))
        tall, wide = int(rng.integers(5, height)), int(rng.integers(5, width))
        truth[top : top + tall, left : left + wide] = number
        down, right = (int(move) for move in rng.integers(0, 3, 2))
        predicted[top + down : top + down + tall, left + right : left + right + wide] = number
    categories = {i: int(rng.integers(1, 4)) for i in ids if i}
    there = {i: c for i, c in categories.items() if (truth == i).any() and (i != 300 or rng.random() < 0.5)}
    crowd = tuple(i for i in there if rng.random() < 0.15)
    return listed(predicted, {i: c for i, c in categories.items() if (predicted == i).any()}), listed(
        truth, there, crowd
    )


def plain_boundary(mask: np.ndarray, ratio: float) -> np.ndarray:
    """Return the pixels removed by d erosions of one pixel; the outside of the image is background."""
    distance = max(1, round(ratio * float(np.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2))))
    eroded = np.asarray(binary_erosion(mask, np.ones((3, 3)), iterations=distance, border_value=0), dtype=bool)
    removed: np.ndarray = mask & ~eroded
    return removed


def plain_ious(prediction: PanopticMap, truth: PanopticMap, ratio: float) -> np.ndarray:
    ious = np.zeros((len(truth.segments), len(prediction.segments)))
    void = truth.ids == 0
    for row, t in enumerate(truth.segments):
        for column, p in enumerate(prediction.segments):
            mine, theirs = prediction.ids == p.id, truth.ids == t.id
            mask_iou = (mine & theirs).sum() / ((mine & ~void) | theirs).sum()
            if mask_iou <= 0.5 or t.category_id != p.category_id or t.is_crowd:
                continue
            mine, theirs = plain_boundary(mine, ratio), plain_boundary(theirs, ratio)
            ious[row, column] = (mine & theirs).sum() / ((mine & ~void) | theirs).sum()
    return ious


@pytest.mark.parametrize("ratio", [0.02, 0.1, 0.5])
def test_equals_the_plain_computation(ratio: float) -> None:
    measured = 0
    for seed in range(40):
        prediction, truth = random_pair(seed)
        ious = boundary_ious(prediction, truth, compare(prediction, truth), ratio)
        np.testing.assert_array_equal(ious, plain_ious(prediction, truth, ratio))
        measured += int(np.count_nonzero((ious > 0) & (ious < 1)))
    assert measured > 30


def test_hand_worked_contours_at_the_image_border() -> None:
    left = np.arange(400) < np.full((300, 1), 200)
    truth = listed(np.where(left, 5, 8), {5: 1, 8: 3})
    prediction = listed(np.where(np.arange(400) < np.full((300, 1), 190), 4, 9), {4: 1, 9: 3})
    # The diagonal is 500, so a boundary is 10 pixels wide. Of the dogs, 200 and 190 columns wide, the top and bottom 10
    # rows of 190 columns are shared, and 10 columns at the left in the 280 rows between; at the right, none are.
    shared = 20 * 190 + 280 * 10
    ious = boundary_ious(prediction, truth, compare(prediction, truth))
    assert ious[0, 0] == shared / (300 * 200 - 280 * 180 + 300 * 190 - 280 * 170 - shared)
    assert ious[0, 1] == ious[1, 0] == 0


def test_separate_contours_have_no_overlap() -> None:
    truth = listed(np.ones((300, 400)), {1: 3})
    smaller = listed(np.pad(np.ones((260, 360)), 20), {1: 3})  # mask IoU 0.78
    assert boundary_ious(smaller, truth, compare(smaller, truth)).tolist() == [[0.0]]
    assert boundary_ious(truth, truth, compare(truth, truth)).tolist() == [[1.0]]


def test_void_is_excluded_from_the_union() -> None:
    ids = np.full((300, 400), 1)
    ids[:, 200:] = 0
    truth, prediction = listed(ids, {1: 3}), listed(np.full((300, 400), 1), {1: 3})
    # boundary of the left half: 300 x 200 - 280 x 180; the prediction has no contour in the middle, 10 x 280 pixels
    whole = 300 * 200 - 280 * 180
    ious = boundary_ious(prediction, truth, compare(prediction, truth))
    assert ious[0, 0] == (whole - 10 * 280) / whole


def test_a_distance_of_half_a_pixel_is_rounded_to_even() -> None:
    ids = np.ones((375, 500), int)  # a common size of photographs: 2 % of the diagonal are 12.5 pixels
    truth = listed(ids, {1: 3})
    moved = ids.copy()
    moved[12:14, 12:-12] = 0  # inside a boundary of 12 pixels, so only its own contour differs
    prediction = listed(moved, {1: 3})
    shared = plain_ious(prediction, truth, 12 / 625)
    np.testing.assert_array_equal(boundary_ious(prediction, truth, compare(prediction, truth)), shared)
    assert (plain_ious(prediction, truth, 13 / 625) != shared).all()


def test_matching_uses_the_minimum_iou_and_loses_pairs() -> None:
    lost = shrunk = 0
    for seed in range(40):
        prediction, truth = random_pair(seed)
        record = with_boundaries(compare(prediction, truth), prediction, truth)
        plain, strict = match_segments(record, TABLE), match_segments(record, TABLE, boundary=True)
        assert record.boundary_iou is not None
        pairs = {
            (int(row), int(column)): iou for row, column, iou in zip(plain.rows, plain.columns, plain.iou, strict=True)
        }
        expected = {pair: min(iou, float(record.boundary_iou[pair])) for pair, iou in pairs.items()}
        expected = {pair: iou for pair, iou in expected.items() if iou > 0.5}
        assert {
            (int(r), int(c)): iou for r, c, iou in zip(strict.rows, strict.columns, strict.iou, strict=True)
        } == expected
        lost += len(pairs) - len(expected)
        shrunk += sum(pairs[pair] > iou for pair, iou in expected.items())
    assert lost > 5 and shrunk > 5


def test_images_without_segments_and_without_pairs() -> None:
    empty = listed(np.zeros((5, 7)), {})
    full = listed(np.ones((5, 7)), {1: 1})
    assert boundary_ious(empty, empty, compare(empty, empty)).shape == (0, 0)
    assert boundary_ious(full, empty, compare(full, empty)).shape == (0, 1)
    other = replace(full, segments=(replace(full.segments[0], category_id=2),))
    assert boundary_ious(full, other, compare(full, other)).tolist() == [[0.0]]


def test_real_ground_truth_equals_itself(shared: Path) -> None:
    coco_panoptic = pytest.importorskip("panformer_cli.data.coco.coco_panoptic")
    data = coco_panoptic.CocoPanoptic(shared / "data" / "coco_mini", "val2017")
    truth = data.annotation(0)
    ious = boundary_ious(truth, truth, compare(truth, truth))
    assert ious.diagonal().tolist() == [float(not segment.is_crowd) for segment in truth.segments]
