"""Test-time augmentation: views are undone exactly, and masks of one object are averaged, at most one of each view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.combined.options import InferenceOptions, View, parse_views
from panformer_cli.engine.combined.views import AugmentedPredictor, average, mirrored
from panformer_cli.models.panoptic_segformer.postprocessing import Candidates, merge_masks
from panformer_cli.models.panoptic_segformer.settings import MergingSettings
from tests.engine.combined.stub import CAT, DOG, SEA, SKY, TABLE, Painted, named, paint, stub_predictor

RED_CAT, DOG_1, BLUE_SKY = Painted(CAT, (250, 0, 0)), Painted(DOG, (0, 250, 0), 0.8), Painted(SKY, (0, 0, 250), 0.7)
PAINTED = [RED_CAT, DOG_1, BLUE_SKY]


def asymmetric(size: tuple[int, int] = (64, 80)) -> ImageArray:
    return paint(size, (BLUE_SKY, (0, 0, 20, size[1])), (RED_CAT, (10, 8, 50, 30)), (DOG_1, (40, 50, 60, 76)))


def views_of(text: str, image: ImageArray, side: int = 64) -> Candidates:
    predictor, _ = stub_predictor(PAINTED, InferenceOptions(views=parse_views(text)), side=side)
    candidates = predictor(image).candidates  # type: ignore[attr-defined]
    assert isinstance(candidates, Candidates)
    return candidates


def things(*rows: tuple[int, float, str]) -> Candidates:
    """Return things (label, class score, pixels of the mask such as `##..`), and empty stuff."""
    masks = [[1.0 if letter == "#" else 0.0 for letter in drawing] for _, _, drawing in rows]
    width = len(rows[0][2])
    return Candidates(
        labels=np.array([*(label for label, _, _ in rows), SKY, SEA], np.int64),
        class_scores=np.array([*(score for _, score, _ in rows), 0, 0], np.float32),
        masks=np.array([*masks, [0.0] * width, [0.0] * width], np.float32)[:, None],
        boxes=np.array([[drawing.index("#"), 0, drawing.rindex("#") + 1, 1] for *_, drawing in rows], np.float32),
        size=(1, width),
    )


def rows_of(candidates: Candidates) -> list[tuple[int, float]]:
    made = candidates.things()
    return [(int(label), round(float(score), 4)) for label, score in zip(made.labels, made.class_scores, strict=True)]


# Views


@pytest.mark.parametrize("size", [(64, 80), (64, 83), (70, 64)])
def test_a_flipped_view_is_undone_exactly(size: tuple[int, int]) -> None:
    """Also for widths that are no multiple of a stride."""
    image = asymmetric(size)
    predictor, _ = stub_predictor(PAINTED, InferenceOptions(), side=min(size))
    plain = predictor(image).panoptic
    flipped = predictor(np.ascontiguousarray(image[:, ::-1])).candidates  # type: ignore[attr-defined]
    undone = mirrored(flipped)
    merged = merge_masks(undone, TABLE, MergingSettings(score_threshold=0.15))
    assert (merged.ids == plain.ids).all()
    base = predictor(image).candidates  # type: ignore[attr-defined]
    np.testing.assert_array_equal(undone.masks, base.masks)
    np.testing.assert_allclose(undone.boxes, base.boxes)


@pytest.mark.parametrize("tta", ["flip", "1", "0.5,2", "flip,0.5,2"])
def test_views_of_a_perfect_model_give_the_plain_result(tta: str) -> None:
    image = asymmetric((64, 96))
    views = views_of(tta, image)
    plain = views_of("1", image)
    assert rows_of(views) == rows_of(plain)
    expected, found = (named(merge_masks(one, TABLE, MergingSettings())) for one in (plain, views))
    assert [name for name, _, _ in found] == [name for name, _, _ in expected]
    for (_, _, box), (_, _, other) in zip(found, expected, strict=True):
        assert np.abs(np.array(box) - other).max() <= 2, "edges of other scales are within a pixel"


def test_every_view_is_resized_from_the_original_image() -> None:
    predictor, model = stub_predictor(PAINTED, InferenceOptions(views=parse_views("0.5,2")), side=64)
    predictor(asymmetric((128, 160)))
    assert [tuple(images.shape[2:]) for images in model.inputs] == [(64, 80), (32, 40), (128, 160)]
    plain, other = stub_predictor(PAINTED, InferenceOptions(), side=128)
    plain(asymmetric((128, 160)))
    np.testing.assert_array_equal(model.inputs[2], other.inputs[0])


def test_batches_have_images_that_agree_in_all_views() -> None:
    predictor, model = stub_predictor(PAINTED, InferenceOptions(views=parse_views("flip")), side=64)
    images = [asymmetric((64, 80)), asymmetric((128, 160)), asymmetric((64, 64))]
    found = dict(predictor.stream(enumerate(images), batch_size=2))
    assert [len(batch) for batch in model.inputs] == [2, 2, 1, 1]
    for number, image in enumerate(images):
        assert (found[number].panoptic.ids == predictor(image).panoptic.ids).all()


def test_the_views_are_described() -> None:
    predictor, _ = stub_predictor(PAINTED, InferenceOptions(views=parse_views("flip")))
    assert isinstance(predictor, AugmentedPredictor)
    assert predictor.described((64, 64)) == {"views": ["scale 1", "scale 1, flipped"]}
    assert predictor.notes() == ["Each image is run in 2 views (scale 1; scale 1, flipped)"]


def test_views_and_tiles_work_together() -> None:
    image = paint((64, 112), (RED_CAT, (10, 5, 50, 100)), (BLUE_SKY, (0, 0, 8, 112)))
    predictor, model = stub_predictor(PAINTED, InferenceOptions(tile=64, tile_overlap=16, views=parse_views("flip")))
    assert named(predictor(image).panoptic) == [("cat", 40 * 95, (5, 10, 95, 40)), ("sky", 8 * 112, (0, 0, 112, 8))]
    assert len(model.inputs) == 4, "two tiles in two views"
    assert {"tile", "views"} <= predictor.described((64, 112)).keys()
    assert View(flipped=True) in parse_views("flip")


# Averages


def test_two_identical_views_give_the_base_result() -> None:
    base = things((CAT, 0.9, "####...."), (CAT, 0.3, "####...."), (DOG, 0.5, ".....##."), (CAT, 0.2, "...###.."))
    doubled = average([base, base])
    for name in ("labels", "class_scores", "boxes", "masks"):
        np.testing.assert_array_equal(
            np.sort(getattr(doubled, name), axis=0), np.sort(getattr(base, name), axis=0), err_msg=name
        )
    one, two = (merge_masks(candidates, TABLE, MergingSettings()) for candidates in (base, doubled))
    assert (one.ids == two.ids).all()
    assert one.segments == two.segments


def shuffled(views: Sequence[Candidates], seed: int) -> list[Candidates]:
    return [views[number] for number in np.random.default_rng(seed).permutation(len(views))]


def test_the_order_of_the_views_does_not_matter() -> None:
    views = [
        things((CAT, 0.9, "####...."), (CAT, 0.35, "######..")),
        things((CAT, 0.6, "#####..."), (DOG, 0.4, "......##")),
        things((CAT, 0.5, ".###...."), (DOG, 0.8, ".....###")),
    ]
    expected = average(views)
    for seed in range(6):
        found = average(shuffled(views, seed))
        assert rows_of(found) == rows_of(expected)
        np.testing.assert_allclose(found.masks, expected.masks, rtol=1e-6)
        np.testing.assert_allclose(found.boxes, expected.boxes, rtol=1e-6)


def test_scores_masks_and_boxes_are_means() -> None:
    found = average([things((CAT, 0.9, "####....")), things((CAT, 0.5, "######.."))])
    assert rows_of(found) == [(CAT, 0.7)]
    np.testing.assert_allclose(found.masks[0, 0], [1, 1, 1, 1, 0.5, 0.5, 0, 0])
    np.testing.assert_allclose(found.boxes, [[0, 0, 5, 1]])


def test_a_thing_that_a_view_misses_gets_a_lower_score() -> None:
    assert rows_of(average([things((CAT, 0.9, "####....")), things((DOG, 0.8, "####...."))])) == [
        (CAT, 0.45),
        (DOG, 0.4),
    ]


def test_at_most_one_thing_of_each_view_is_joined() -> None:
    """The second view has the object twice: its better candidate is joined."""
    views = [things((CAT, 0.9, "####....")), things((CAT, 0.2, "####....."[:8]), (CAT, 0.7, "#####..."))]
    assert rows_of(average(views)) == [(CAT, 0.8), (CAT, 0.1)]


def test_things_that_hardly_overlap_are_not_joined() -> None:
    # IoU 2 / 4 is not above a half; 3 / 4 is.
    assert len(rows_of(average([things((CAT, 0.9, "####....")), things((CAT, 0.9, "##......"))]))) == 2
    assert len(rows_of(average([things((CAT, 0.9, "####....")), things((CAT, 0.9, "###....."))]))) == 1


def test_stuff_is_averaged_by_class() -> None:
    views = []
    for score, value in ((0.8, 1.0), (0.4, 0.2)):
        base = things((CAT, 0.9, "####...."))
        masks, scores = base.masks.copy(), base.class_scores.copy()
        masks[1], scores[1] = value, score
        views.append(replace(base, masks=masks, class_scores=scores))
    found = average(views).stuff()
    assert found.labels.tolist() == [SKY, SEA]
    np.testing.assert_allclose(found.class_scores, [0.6, 0.0])
    np.testing.assert_allclose(found.masks[0], np.full((1, 8), 0.6))


def test_no_things_at_all() -> None:
    empty = replace(
        things((CAT, 0.9, "####....")),
        labels=np.array([SKY, SEA]),
        class_scores=np.zeros(2, np.float32),
        masks=np.zeros((2, 1, 8), np.float32),
        boxes=np.zeros((0, 4), np.float32),
    )
    found = average([empty, empty])
    assert found.masks.shape == (2, 1, 8)
    assert found.boxes.shape == (0, 4)
    assert mirrored(found).boxes.shape == (0, 4)
