"""Mask-wise merging on hand-computed cases (docs/model.md, "Inference and merging")."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from panformer_cli.data.structures import PanopticMap
from panformer_cli.models.panoptic_segformer.output import InferenceOutput
from panformer_cli.models.panoptic_segformer.postprocessing import Candidates, candidates_of, merge_masks
from panformer_cli.models.panoptic_segformer.settings import MergingSettings
from tests.models.panoptic_segformer.small import table

TABLE = table(things=2, stuff=2)  # labels 0, 1 are ids 10, 11; labels 2, 3 are ids 3, 4
CAT, DOG, SKY, SEA = range(4)
RECIPE = MergingSettings()
Row = tuple[int, float, str]
"""Label, class score, and the pixels of the mask, such as `##..`."""


def candidates(*rows: Row, value: float = 1.0, height: int = 1) -> Candidates:
    masks = [[value if letter == "#" else 0.0 for letter in drawing] for _, _, drawing in rows]
    return Candidates(
        labels=np.array([label for label, _, _ in rows], np.int64),
        class_scores=np.array([score for _, score, _ in rows], np.float32),
        masks=np.array(masks, np.float32).reshape(len(rows), height, -1),
        boxes=np.zeros((len(rows), 4), np.float32),
        size=(height, len(rows[0][2]) // height if rows else 1),
    )


def drawn(panoptic: PanopticMap) -> str:
    return "".join(str(number) for number in panoptic.ids.flatten())


def categories(panoptic: PanopticMap) -> list[int]:
    return [segment.category_id for segment in panoptic.segments]


def test_the_score_is_class_times_squared_mean_mask() -> None:
    made = candidates((CAT, 0.8, "#####....."), (SKY, 0.5, ".........."), value=0.9)
    made.masks[0, 0, 9] = 0.5  # the threshold, which is not above itself
    made.masks[0, 0, 0] = 3.0  # masks have no upper bound
    quality = (3.0 + 4 * 0.9) / (5 + 1)
    np.testing.assert_allclose(made.scores(), [0.8 * quality**2, 0.0], rtol=1e-6)
    assert made.binary(0).tolist() == [[True] * 5 + [False] * 5]


def test_things_are_merged_in_descending_score_and_each_is_a_segment() -> None:
    panoptic = merge_masks(
        candidates((CAT, 0.6, "...####..."), (CAT, 0.9, "####......"), (DOG, 0.8, "........##")), TABLE, RECIPE
    )
    # The dog is small: 0.8 * (2 / 3)^2 = 0.36; the second cat 0.6 * (4 / 5)^2 = 0.38.
    assert drawn(panoptic) == "1111222.33".replace(".", "0")
    assert [segment.id for segment in panoptic.segments] == [1, 2, 3]
    assert categories(panoptic) == [10, 10, 11]
    assert [segment.area for segment in panoptic.segments] == [4, 3, 2]
    assert [segment.bbox for segment in panoptic.segments] == [(0, 0, 4, 1), (4, 0, 3, 1), (8, 0, 2, 1)]
    scores = [0.9 * 0.8**2, 0.6 * 0.8**2, 0.8 * (2 / 3) ** 2]
    assert [segment.score for segment in panoptic.segments] == pytest.approx(scores)
    assert panoptic.ids.dtype == np.int32


def test_a_score_at_the_threshold_is_accepted_and_one_below_is_not() -> None:
    made = candidates((CAT, 0.7, "######...."))
    score = float(made.scores()[0])
    above = math.nextafter(score, 1.0)
    assert drawn(merge_masks(made, TABLE, MergingSettings(score_threshold=score))) == "1111110000"
    assert drawn(merge_masks(made, TABLE, MergingSettings(score_threshold=above + 1e-6))) == "0000000000"


@pytest.mark.parametrize(("label", "first", "merged"), [
    (DOG, "####......", "1111222222"),  # 4 of 10 are taken: 0.4 is not more than 0.4
    (DOG, "#####.....", "1111100000"),  # 5 of 10
    (SKY, "##........", "1122222222"),  # stuff: 0.2
    (SKY, "###.......", "1110000000"),
])  # fmt: skip
def test_candidates_with_too_much_overlap_are_dropped(label: int, first: str, merged: str) -> None:
    made = candidates((CAT, 1.0, first), (label, 0.4, "##########"))
    assert float(made.scores()[0]) > float(made.scores()[1]) > 0.25
    assert drawn(merge_masks(made, TABLE, RECIPE)) == merged


def test_the_overlap_thresholds_are_settings() -> None:
    made = candidates((CAT, 1.0, "######...."), (DOG, 0.4, "##########"))
    assert drawn(merge_masks(made, TABLE, RECIPE)) == "1111110000"
    assert drawn(merge_masks(made, TABLE, MergingSettings(thing_overlap=0.6))) == "1111112222"


def test_dropped_candidates_take_no_pixels() -> None:
    rows = [(CAT, 1.0, "######......"), (DOG, 0.9, "..########.."), (DOG, 0.5, "......######")]
    # The first dog: 4 of 8 are taken. All pixels of the second are free.
    assert drawn(merge_masks(candidates(*rows), TABLE, RECIPE)) == "111111222222"


def test_stuff_of_one_class_is_one_segment_and_of_two_classes_two() -> None:
    rows = [(SKY, 0.9, "####........"), (SKY, 0.8, "...#####...."), (SEA, 0.7, "........####")]
    panoptic = merge_masks(candidates(*rows), TABLE, MergingSettings(stuff_overlap=0.3))
    assert drawn(panoptic) == "111111112222"
    assert categories(panoptic) == [3, 4]
    assert panoptic.segments[0].area == 8
    assert panoptic.segments[0].score == pytest.approx(0.9 * 0.8**2)  # the score of its best part


def test_a_query_selected_twice_gives_one_segment_with_its_better_class() -> None:
    panoptic = merge_masks(candidates((CAT, 0.6, "##########"), (DOG, 0.8, "##########")), TABLE, RECIPE)
    assert drawn(panoptic) == "1" * 10
    assert categories(panoptic) == [11]


def test_an_empty_mask_is_not_a_segment_at_any_threshold() -> None:
    made = candidates((CAT, 1.0, ".........."), (SKY, 1.0, "##########"), value=0.5)
    panoptic = merge_masks(made, TABLE, MergingSettings(score_threshold=0.0))
    assert drawn(panoptic) == "0" * 10
    assert panoptic.segments == ()


def test_a_mask_without_free_pixels_is_not_a_segment() -> None:
    made = candidates((CAT, 1.0, "##########"), (SKY, 0.9, "####......"))
    panoptic = merge_masks(made, TABLE, MergingSettings(stuff_overlap=1.0))
    assert drawn(panoptic) == "1" * 10
    assert categories(panoptic) == [10]


def test_areas_and_boxes_are_those_of_the_merged_pixels() -> None:
    made = candidates((CAT, 1.0, ".....##..##....."), (SKY, 0.5, "################"), height=4)
    panoptic = merge_masks(made, TABLE, MergingSettings(stuff_overlap=0.25))
    assert panoptic.ids.tolist() == [[2, 2, 2, 2], [2, 1, 1, 2], [2, 1, 1, 2], [2, 2, 2, 2]]
    assert [(segment.area, segment.bbox) for segment in panoptic.segments] == [(4, (1, 1, 2, 2)), (12, (0, 0, 4, 4))]


# Upper bounds of scores


@pytest.mark.parametrize("size", [(40, 60), (37, 23), (5, 7), (4, 6)])
def test_bounds_are_valid_and_skipped_scores_do_not_matter(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    masks = (rng.random((60, 5, 7)) * rng.random((60, 1, 1)) * 2).astype(np.float32)
    labels, boxes = rng.integers(0, 4, 60), np.zeros((60, 4), np.float32)
    made = Candidates(labels, rng.random(60).astype(np.float32), masks, boxes, size)
    scores = made.scores()
    assert (scores <= made.score_bounds).all()
    assert (made.score_bounds[scores > 0] < 4 * scores[scores > 0] + 1).all(), "the bounds must be useful"
    for least in (0.1, 0.25, 0.6):
        fewer = made.scores(least)
        assert (fewer[scores >= least] == scores[scores >= least]).all()
        assert (fewer[scores < least] < least).all()
    assert (made.scores(0.6) == 0).sum() > (scores == 0).sum()


# Candidates


def output_of() -> InferenceOutput:
    """Return two images with 4 x 6 masks, two thing classes, two stuff classes and three selected pairs."""
    generator = torch.Generator().manual_seed(3)
    things, stuff = (torch.rand(2, count, 4, 6, generator=generator) for count in (3, 2))
    return InferenceOutput(
        labels=torch.tensor([[0, 1, 1], [1, 0, 1]]),
        scores=torch.rand(2, 3, generator=generator),
        boxes=torch.rand(2, 3, 4, generator=generator),
        masks=things,
        stuff_scores=torch.rand(2, 2, generator=generator),
        stuff_masks=stuff,
    )


@pytest.mark.parametrize("image", [0, 1])
def test_candidates_are_the_selected_things_and_all_stuff_classes(image: int) -> None:
    output = output_of()
    made = candidates_of(output, image, size=(20, 25), num_things=2)
    assert made.labels.tolist() == [*output.labels[image].tolist(), 2, 3]
    scores = torch.cat([output.scores[image], output.stuff_scores[image]])
    np.testing.assert_allclose(made.class_scores, scores.numpy(), rtol=1e-6)
    small = torch.cat([output.masks[image], output.stuff_masks[image]])
    assert len(made.masks) == len(small)
    for index, source in enumerate(small):
        expected = F.interpolate(source[None, None], size=(20, 25), mode="bilinear", align_corners=False)[0, 0]
        np.testing.assert_allclose(made.enlarged(index), expected.numpy(), atol=1e-6)
        assert (made.binary(index) == (made.enlarged(index) > 0.5)).all()


def test_boxes_are_in_pixels_of_the_original_image_and_clipped() -> None:
    output = output_of()
    output.boxes[1, 0] = torch.tensor([0.5, 0.5, 0.4, 0.2])
    output.boxes[1, 1] = torch.tensor([0.0, 1.0, 0.4, 0.2])
    boxes = candidates_of(output, 1, size=(20, 100), num_things=2).boxes
    assert len(boxes) == 3
    np.testing.assert_allclose(boxes[:2], [[30.0, 8.0, 70.0, 12.0], [0.0, 18.0, 20.0, 20.0]], rtol=1e-6)
