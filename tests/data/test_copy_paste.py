"""Copy-paste: whose pixels are where, and what is left of the segments below."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from panformer_cli.data.augmentation import TrainTransform
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.copy_paste import images_with_things, other_image, paste_things
from panformer_cli.data.labeled_image import LEAST_AREA, LabeledImage
from panformer_cli.data.loading import TrainDataset, train_loader
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import RecipeError
from panformer_cli.recipe import Recipe
from panformer_cli.settings import DataSettings, TrainSettings
from tests.data.coco.coco_files import write_coco
from tests.data.test_transforms import CATEGORIES, PLAIN, marked

THING, OTHER, STUFF = 0, 1, 2
NUM_THINGS = 2


def labeled(gray: int, numbers: npt.NDArray[np.uint16], labels: list[int]) -> LabeledImage:
    """Return a gray image with boxes that are wrong on purpose."""
    image = np.full((*numbers.shape, 3), gray, np.uint8)
    return LabeledImage(image, numbers, np.array(labels, np.int64), np.full((len(labels), 4), 7, np.float32))


def canvas(height: int = 20, width: int = 30) -> npt.NDArray[np.uint16]:
    return np.zeros((height, width), np.uint16)


def target() -> LabeledImage:
    """Return stuff in the upper half, a thing of 4 x 5 pixels in it, and void below."""
    numbers = canvas()
    numbers[:10] = 1
    numbers[2:6, 3:8] = 2
    return labeled(50, numbers, [STUFF, THING])


def source(rows: slice, columns: slice) -> LabeledImage:
    """Return a thing in a window, on stuff."""
    numbers = np.full((20, 30), 1, np.uint16)
    numbers[rows, columns] = 2
    return labeled(200, numbers, [STUFF, OTHER])


def paste(below: LabeledImage, above: LabeledImage, seed: int = 0) -> LabeledImage:
    return paste_things(below, above, NUM_THINGS, np.random.default_rng(seed))


def assert_consistent(image: LabeledImage) -> None:
    """Check that each number is used, has enough pixels and the box of its pixels."""
    assert set(np.unique(image.numbers)) - {0} == set(range(1, len(image.labels) + 1))
    for number, box in enumerate(image.boxes, 1):
        rows, columns = np.nonzero(image.numbers == number)
        assert len(rows) >= LEAST_AREA
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_thing_covers_what_is_below_it() -> None:
    """The pasted rows 4..7 and columns 5..9 cover 2 x 3 pixels of the thing below, of 20."""
    both = replace(target(), numbers=target().numbers.copy())
    both.numbers[2:8, 3:8] = 2  # 30 pixels, so that enough are left
    found = paste(both, source(np.s_[4:8], np.s_[5:10]))
    assert found.labels.tolist() == [STUFF, THING, OTHER]
    assert found.boxes.tolist() == [[0, 0, 30, 10], [3, 2, 8, 8], [5, 4, 10, 8]]
    assert [(found.numbers == number).sum() for number in range(4)] == [300, 300 - 30 - 8, 30 - 12, 20]
    pasted = found.numbers == 3
    assert (found.image[pasted] == 200).all() and (found.image[~pasted] == 50).all()
    assert_consistent(found)


@pytest.mark.parametrize("left", [0, 1, LEAST_AREA - 1])
def test_a_segment_of_which_too_little_is_visible_is_dropped(left: int) -> None:
    covered = source(np.s_[2:6], np.s_[3:8])
    rows, columns = np.nonzero(target().numbers == 2)
    covered.numbers[rows[:left], columns[:left]] = 1  # not part of the pasted thing
    covered.numbers[12:18, 10:20] = 2
    found = paste(target(), covered)
    assert found.labels.tolist() == [STUFF, OTHER]
    assert (found.numbers[2:6, 3:8] == 0).sum() == left  # void, not stuff
    assert_consistent(found)


def test_all_segments_can_be_covered() -> None:
    found = paste(target(), source(np.s_[:], np.s_[:]))
    assert found.labels.tolist() == [OTHER] and found.boxes.tolist() == [[0, 0, 30, 20]]
    assert_consistent(found)


def test_stuff_void_and_slivers_are_not_pasted() -> None:
    numbers = canvas()
    numbers[:, :10] = 1
    numbers[0, 20 : 20 + LEAST_AREA - 8] = 2
    above = labeled(200, numbers, [STUFF, THING])
    found = paste(target(), above)
    assert found.labels.tolist() == [STUFF, THING] and (found.image == 50).all()
    assert np.array_equal(found.numbers, target().numbers)


@pytest.mark.parametrize("size", [(10, 12), (40, 60), (10, 60), (20, 30)])
def test_images_of_other_sizes_are_placed_at_random_positions(size: tuple[int, int]) -> None:
    """The image encodes positions: red is the row, green the column in the other image."""
    numbers = np.ones(size, np.uint16)
    above = labeled(0, numbers, [OTHER])
    above.image[:] = np.stack([*np.indices(size), np.full(size, 99)], axis=-1)
    positions = set()
    for seed in range(30):
        found = paste(labeled(0, canvas(), []), above, seed)
        rows, columns = np.nonzero(found.numbers)
        assert len(rows) == min(size[0], 20) * min(size[1], 30)
        offsets = {
            (int(r - red), int(c - green))
            for r, c in zip(rows, columns, strict=True)
            for red, green, _ in [found.image[r, c].astype(int)]
        }
        assert len(offsets) == 1
        positions |= offsets
    assert positions == {(0, 0)} if size == (20, 30) else len(positions) > 5


def test_about_half_of_the_things_are_pasted_and_at_least_one() -> None:
    numbers = canvas()
    for number in range(3):
        numbers[:, number * 10 : number * 10 + 5] = number + 1
    above = labeled(200, numbers, [THING, OTHER, THING])
    counts = [len(paste(labeled(0, canvas(), []), above, seed).labels) for seed in range(400)]
    # Of 3 things, 1 or none by chance (4 of 8 cases), 2 (3 of 8) or 3 (1 of 8).
    assert np.abs(np.bincount(counts, minlength=4) / 400 - [0, 4 / 8, 3 / 8, 1 / 8]).max() < 0.1


def test_crowds_are_not_pasted(tmp_path: Path) -> None:
    write_coco(tmp_path, images=4)
    listed = CocoPanoptic(tmp_path, "val").listed
    assert images_with_things(listed).tolist() == [0, 1, 2, 3]
    listed.rows["is_crowd"][[1, 3, 4, 5, 7]] = True  # the boxes of images 0, 1 and 2; other things are crowds already
    assert images_with_things(listed).tolist() == [3]
    sample = marked(64, 96, 8, 16, 20, 24)
    image, targets = TrainTransform(replace(PLAIN, train_short_sides=(64,)), CATEGORIES)(
        sample, np.random.default_rng(0), sample
    )
    assert sorted(targets.labels.tolist()) == [1, 2] or targets.labels.tolist() == [1, 2, 1]
    assert not targets.masks[:, -5:].any()  # the crowd's pixels are void


def test_the_other_image_is_another_one_if_there_is_one() -> None:
    rng = np.random.default_rng(0)
    assert {other_image(np.array([1, 4, 6]), 4, rng) for _ in range(50)} == {1, 6}
    assert {other_image(np.array([1, 6]), 4, rng) for _ in range(50)} == {1, 6}
    assert other_image(np.array([4]), 4, rng) == 4


def recipe(copy_paste: float = 1.0, workers: int = 0, **settings: object) -> Recipe:
    data = DataSettings(train_short_sides=(40,), workers=workers, crop_probability=0.0, copy_paste=copy_paste)
    return Recipe(data=replace(data, **settings), train=TrainSettings(batch_size=2))  # type: ignore[arg-type]


def test_a_data_set_without_things_is_rejected(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    path.write_text(path.read_text().replace('"isthing": 1', '"isthing": 0'))
    with pytest.raises(RecipeError, match=r"data.copy_paste is 1.0, but .*panoptic_val.json has no thing to paste"):
        TrainDataset(CocoPanoptic(tmp_path, "val"), recipe())


def test_with_probability_one_nearly_all_images_change(tmp_path: Path) -> None:
    write_coco(tmp_path, images=10)
    coco = CocoPanoptic(tmp_path, "val")

    def images(copy_paste: float) -> list[torch.Tensor]:
        loader = train_loader(coco, recipe(copy_paste, flip_probability=0.0))
        return [batch.images for step in loader.epoch(0) for batch in step]

    def changed(copy_paste: float) -> int:
        return sum(not torch.equal(one, two) for one, two in zip(images(0.0), images(copy_paste), strict=True))

    assert changed(1.0) == 10 and 0 < changed(0.3) < 8


@pytest.mark.slow
def test_workers_and_a_rerun_give_the_same_images_with_all_augmentation(tmp_path: Path) -> None:
    write_coco(tmp_path, images=8)
    coco = CocoPanoptic(tmp_path, "val")
    settings = {"scale_jitter": (0.5, 2.0), "color_jitter": (0.4, 0.4, 0.4, 0.1), "crop_probability": 0.0}

    def batches(workers: int, epoch: int, first: int = 0) -> list[torch.Tensor]:
        loader = train_loader(coco, recipe(0.5, workers, **settings))
        return [
            tensor
            for step in loader.epoch(epoch, first)
            for batch in step
            for tensor in (batch.images, batch.targets[0].masks, batch.targets[0].boxes, batch.targets[0].labels)
        ]

    expected = batches(0, 1)
    for found in (batches(2, 1), batches(0, 1)):
        assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))
    assert all(torch.equal(one, two) for one, two in zip(batches(1, 1, 2), expected[16:], strict=True))
    other = batches(0, 0)
    assert not all(torch.equal(one, two) for one, two in zip(other, expected, strict=True))


def test_no_target_is_empty_with_all_augmentation() -> None:
    settings = DataSettings(
        train_short_sides=(64,), crop_short_sides=(80,), crop_range=(40, 60), scale_jitter=(0.1, 2.0)
    )
    transform, rng = TrainTransform(settings, CATEGORIES), np.random.default_rng(0)
    for _ in range(60):
        sample, other = marked(64, 96, 8, 16, 20, 24), marked(70, 50, 30, 10, 30, 20)
        image, targets = transform(sample, rng, other)
        areas = targets.masks.sum((1, 2))
        assert (areas >= LEAST_AREA).all()
        assert (targets.masks.sum(0) <= 1).all()
        for box, mask in zip(targets.boxes, targets.masks, strict=True):
            rows, columns = torch.nonzero(mask, as_tuple=True)
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == [float(side) for side in expected]
        assert image.shape[1:] == targets.masks.shape[1:]


def test_an_image_without_segments_can_be_pasted_onto() -> None:
    empty = replace(marked(64, 96, 0, 0, 1, 1), annotation=PanopticMap(np.zeros((64, 96), np.int32), ()))
    transform = TrainTransform(replace(PLAIN, train_short_sides=(64,)), CATEGORIES)
    _, targets = transform(empty, np.random.default_rng(0), marked(64, 96, 8, 16, 20, 24))
    assert targets.labels.tolist() == [1] and targets.boxes.tolist() == [[16, 8, 40, 28]]
    _, targets = transform(empty, np.random.default_rng(0), empty)
    assert targets.labels.tolist() == [] and targets.masks.shape == (0, 64, 96)
