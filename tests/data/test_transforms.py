"""Sizes, normalization, and the random augmentation of training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from panformer_cli.data.augmentation import TrainTransform
from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.labeled_image import LabeledImage
from panformer_cli.data.structures import PanopticMap, Sample, Segment
from panformer_cli.data.transforms import (
    MEAN,
    STD,
    normalize,
    resized_size,
)
from panformer_cli.settings import DataSettings

CATEGORIES = CategoryTable([Category(1, "thing", True), Category(50, "other", True), Category(9, "stuff", False)])
PLAIN = DataSettings(flip_probability=0.0, crop_probability=0.0)


def marked(height: int, width: int, top: int, left: int, tall: int, wide: int) -> Sample:
    """A green image with a magenta patch, which is segment 70000; below it a crowd (8); the rest is stuff (4)."""
    image = np.full((height, width, 3), (0, 255, 0), np.uint8)
    ids = np.full((height, width), 4, np.int32)
    ids[-5:] = 8
    image[top : top + tall, left : left + wide] = (255, 0, 255)
    ids[top : top + tall, left : left + wide] = 70000
    segments = (
        Segment(70000, 50, tall * wide, (left, top, wide, tall)),
        Segment(8, 1, 5 * width, (0, height - 5, width, 5), is_crowd=True),
        Segment(4, 9, (height - 5) * width - tall * wide, (0, 0, width, height - 5)),
    )
    return Sample(image, PanopticMap(ids, segments), 1, "a.jpg", "a.png")


def is_magenta(image: torch.Tensor) -> torch.Tensor:
    """Return where a normalized image is more magenta than green, (H, W) bool."""
    pixels = image * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    return torch.gt(pixels[0], pixels[1])


def bounds(mask: torch.Tensor) -> torch.Tensor:
    """Return x1, y1, x2, y2 of the True pixels in (H, W)."""
    rows, columns = torch.nonzero(mask.any(1)).flatten(), torch.nonzero(mask.any(0)).flatten()
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        ((480, 640), (800, 1333), (800, 1067)),  # 1066.67 rounds up
        ((640, 480), (800, 1333), (1067, 800)),
        ((427, 640), (800, 1333), (800, 1199)),
        ((300, 900), (800, 1333), (444, 1333)),  # limited by the long side: 444.3
        ((96, 128), (192, 320), (192, 256)),
        ((200, 304), (176, 280), (176, 268)),
        ((1, 5000), (100, 200), (32, 200)),  # the backbones need at least 32
    ],
)
def test_sizes_by_hand(size: tuple[int, int], limits: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(*size, *limits) == expected


def test_normalization_follows_the_formula() -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    expected = ((image - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1)
    assert np.allclose(normalize(image).numpy(), expected, atol=1e-6)


def test_targets_exclude_crowds() -> None:
    sample = marked(60, 80, 10, 20, 12, 30)
    targets = LabeledImage.of(sample.image, sample.annotation, CATEGORIES).targets()
    assert targets.labels.dtype == torch.int64 and targets.labels.tolist() == [1, 2]
    assert targets.boxes.dtype == torch.float32
    assert targets.boxes.tolist() == [[20, 10, 50, 22], [0, 0, 80, 55]]
    assert targets.masks.dtype == torch.bool and targets.masks.shape == (2, 60, 80)
    assert targets.masks.sum((1, 2)).tolist() == [360, 80 * 55 - 360]
    assert targets.masks[0, 10:22, 20:50].all()


def test_an_image_without_segments_has_empty_targets() -> None:
    sample = Sample(np.zeros((40, 50, 3), np.uint8), PanopticMap(np.zeros((40, 50), np.int32), ()), 1, "a", "a")
    image, targets = TrainTransform(PLAIN, CATEGORIES)(sample, np.random.default_rng(0))
    assert targets.labels.shape == (0,) and targets.boxes.shape == (0, 4)
    assert targets.masks.shape == (0, *image.shape[1:])


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_image_mask_and_box_agree_without_crop(flip: float) -> None:
    recipe = DataSettings(flip_probability=flip, crop_probability=0.0, train_short_sides=(128,), long_side=400)
    image, targets = TrainTransform(recipe, CATEGORIES)(marked(64, 96, 8, 16, 20, 24), np.random.default_rng(0))
    assert image.shape == (3, 128, 192)
    left, right = (192 - 80, 192 - 32) if flip else (32, 80)  # everything doubles
    assert targets.boxes[0].tolist() == [left, 16, right, 56]
    expected = torch.zeros(128, 192, dtype=torch.bool)
    expected[16:56, left:right] = True
    assert torch.equal(targets.masks[0], expected)
    assert (is_magenta(image) == expected).float().mean() > 0.99


def test_boxes_follow_the_exact_ratio_of_each_axis() -> None:
    recipe = replace(PLAIN, train_short_sides=(150,), long_side=400)
    image, targets = TrainTransform(recipe, CATEGORIES)(marked(97, 131, 10, 20, 12, 30), np.random.default_rng(0))
    assert image.shape[1:] == (150, 203)  # 131 * 150 / 97 = 202.58
    expected = np.array([20 * 203 / 131, 10 * 150 / 97, 50 * 203 / 131, 22 * 150 / 97])
    assert np.allclose(targets.boxes[0].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("last_side", [60, 100, 150, 230])
def test_image_mask_and_box_agree_after_flip_resize_crop_and_resize(last_side: int) -> None:
    recipe = DataSettings(
        crop_probability=1.0, crop_short_sides=(130,), crop_range=(100, 100), train_short_sides=(last_side,)
    )
    transform, rng = TrainTransform(recipe, CATEGORIES), np.random.default_rng(1)
    seen = clipped = 0
    for _ in range(60):
        image, targets = transform(marked(100, 140, 20, 30, 24, 36), rng)
        assert image.shape == (3, last_side, last_side)
        if 1 not in targets.labels.tolist():
            assert not is_magenta(image).any()
            continue
        box, mask = targets.boxes[targets.labels.tolist().index(1)], targets.masks[targets.labels.tolist().index(1)]
        if min(box[2] - box[0], box[3] - box[1]) < 6:
            continue  # a sliver at the border may have no pixel
        seen += 1
        clipped += bool((box == 0).any() or (box == last_side).any())
        x1, y1, x2, y2 = (int(side) for side in bounds(is_magenta(image)))
        assert (bounds(is_magenta(image)) - box).abs().max() <= 1
        assert is_magenta(image)[y1:y2, x1:x2].float().mean() > 0.95, "not all corners"
        # OpenCV's nearest neighbor moves edges by less than a pixel to the right and down in each resize.
        moved = bounds(mask) - box
        assert moved.min() > -1e-3
        assert moved.max() < 1 + last_side / 100
        x1, y1, x2, y2 = (int(side) for side in bounds(mask))
        assert mask[y1:y2, x1:x2].all()
    assert seen > 20
    assert 0 < clipped < seen


def test_a_crop_without_objects_is_kept() -> None:
    sample = marked(200, 200, 0, 0, 4, 4)
    ids = np.where(sample.annotation.ids == 70000, 70000, 0).astype(np.int32)
    sample = replace(sample, annotation=PanopticMap(ids, sample.annotation.segments[:1]))
    recipe = DataSettings(crop_probability=1, crop_short_sides=(200,), crop_range=(60, 60), train_short_sides=(60,))
    transform = TrainTransform(recipe, CATEGORIES)
    counts = {len(transform(sample, np.random.default_rng(seed))[1].labels) for seed in range(20)}
    assert 0 in counts


def test_the_sample_is_not_changed() -> None:
    sample = marked(64, 96, 8, 16, 20, 24)
    image, ids = sample.image.copy(), sample.annotation.ids.copy()
    for seed in range(8):
        TrainTransform(DataSettings(train_short_sides=(64,)), CATEGORIES)(sample, np.random.default_rng(seed))
    assert np.array_equal(sample.image, image) and np.array_equal(sample.annotation.ids, ids)
