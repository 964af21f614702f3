"""Sizes, normalisation, and the random augmentation of training."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.images import read_image
from panformer_cli.data.structures import PanopticMap, Sample, Segment
from panformer_cli.data.transforms import (
    MEAN,
    STD,
    TrainTransform,
    _random_crop,
    _Scene,
    normalise,
    prepare_image,
    resize_image,
    resized_size,
    targets_of,
)
from panformer_cli.recipe import DataRecipe

CATEGORIES = CategoryTable([Category(1, "thing", True), Category(50, "other", True), Category(9, "stuff", False)])
PLAIN = DataRecipe(flip_probability=0.0, crop_probability=0.0)


def marked(height: int, width: int, top: int, left: int, tall: int, wide: int) -> Sample:
    """A black image with a white patch, which is segment 70000; below it a crowd (8); the rest is stuff (4)."""
    image = np.zeros((height, width, 3), np.uint8)
    ids = np.full((height, width), 4, np.int32)
    ids[-5:] = 8
    image[top : top + tall, left : left + wide] = 255
    ids[top : top + tall, left : left + wide] = 70000
    segments = (
        Segment(70000, 50, tall * wide, (left, top, wide, tall)),
        Segment(8, 1, 5 * width, (0, height - 5, width, 5), is_crowd=True),
        Segment(4, 9, (height - 5) * width - tall * wide, (0, 0, width, height - 5)),
    )
    return Sample(image, PanopticMap(ids, segments), 1, "a.png")


def brightness(image: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation: (H, W) of 0..255."""
    return (image * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]).mean(0)


def grown(mask: torch.Tensor) -> torch.Tensor:
    """The mask (H, W) and all within 3 pixels of it."""
    return torch.nn.functional.max_pool2d(mask.float()[None], 7, stride=1, padding=3)[0] > 0


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        ((480, 640), (800, 1333), (800, 1067)),  # 1066.67 rounds up
        ((640, 480), (800, 1333), (1067, 800)),
        ((427, 640), (800, 1333), (800, 1199)),
        ((300, 900), (800, 1333), (444, 1333)),  # the long side decides: 444.3
        ((96, 128), (192, 320), (192, 256)),
        ((200, 304), (176, 280), (176, 268)),
        ((1, 5000), (100, 200), (32, 200)),  # no backbone takes less than 32
    ],
)
def test_sizes_by_hand(size: tuple[int, int], limits: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(*size, *limits) == expected


@pytest.mark.parametrize(
    ("name", "file", "limits"),
    [("a", "img_a.png", (192, 320)), ("b", "img_b.png", (192, 320)), ("b_small", "img_b.png", (176, 280))],
)
def test_the_input_is_bitwise_what_the_release_feeds(
    shared: Path, name: str, file: str, limits: tuple[int, int]
) -> None:
    recorded = np.load(shared / "golden" / "inputs.npz")
    image = read_image(shared / "golden" / file)
    height, width = image.shape[:2]
    resized = resize_image(image, *resized_size(height, width, *limits))
    assert np.array_equal(resized[..., ::-1], recorded[f"{name}.resized_bgr_uint8"].reshape(resized.shape))
    prepared = prepare_image(image, *limits).numpy()
    assert prepared.dtype == np.float32
    assert np.array_equal(prepared, recorded[f"{name}.input"].reshape(prepared.shape))


def test_normalising_is_the_formula() -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    expected = ((image - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1)
    assert np.allclose(normalise(image).numpy(), expected, atol=1e-6)


def test_targets_of_an_annotation_leave_out_the_crowd() -> None:
    targets = targets_of(marked(60, 80, 10, 20, 12, 30).annotation, CATEGORIES)
    assert targets.labels.dtype == torch.int64 and targets.labels.tolist() == [1, 2]
    assert targets.boxes.dtype == torch.float32
    assert targets.boxes.tolist() == [[20, 10, 50, 22], [0, 0, 80, 55]]
    assert targets.masks.dtype == torch.bool and targets.masks.shape == (2, 60, 80)
    assert targets.masks.sum((1, 2)).tolist() == [360, 80 * 55 - 360]
    assert targets.masks[0, 10:22, 20:50].all()


def test_an_image_without_segments_has_empty_targets() -> None:
    sample = Sample(np.zeros((40, 50, 3), np.uint8), PanopticMap(np.zeros((40, 50), np.int32), ()), 1, "a")
    image, targets = TrainTransform(PLAIN, CATEGORIES)(sample, np.random.default_rng(0))
    assert targets.labels.shape == (0,) and targets.boxes.shape == (0, 4)
    assert targets.masks.shape == (0, *image.shape[1:])


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_the_patch_moves_alike_in_image_mask_and_box_without_crop(flip: float) -> None:
    recipe = DataRecipe(flip_probability=flip, crop_probability=0.0, train_short_sides=(128,), long_side=400)
    image, targets = TrainTransform(recipe, CATEGORIES)(marked(64, 96, 8, 16, 20, 24), np.random.default_rng(0))
    assert image.shape == (3, 128, 192)
    left, right = (192 - 80, 192 - 32) if flip else (32, 80)  # everything doubles
    assert targets.boxes[0].tolist() == [left, 16, right, 56]
    expected = torch.zeros(128, 192, dtype=torch.bool)
    expected[16:56, left:right] = True
    assert torch.equal(targets.masks[0], expected)
    assert ((brightness(image) > 127) == expected).float().mean() > 0.99


def test_boxes_follow_the_exact_ratio_of_each_axis() -> None:
    recipe = replace(PLAIN, train_short_sides=(150,), long_side=400)
    image, targets = TrainTransform(recipe, CATEGORIES)(marked(97, 131, 10, 20, 12, 30), np.random.default_rng(0))
    assert image.shape[1:] == (150, 203)  # 131 * 150 / 97 = 202.58
    expected = np.array([20 * 203 / 131, 10 * 150 / 97, 50 * 203 / 131, 22 * 150 / 97])
    assert np.allclose(targets.boxes[0].numpy(), expected, atol=1e-4)


def test_the_patch_moves_alike_in_image_mask_and_box_through_crops() -> None:
    recipe = DataRecipe(
        crop_probability=1.0, train_short_sides=(96, 120), crop_short_sides=(90, 130), crop_range=(50, 100)
    )
    transform, rng = TrainTransform(recipe, CATEGORIES), np.random.default_rng(1)
    sample = marked(100, 140, 30, 60, 24, 36)
    seen = 0
    for _ in range(60):
        image, targets = transform(sample, rng)
        if 1 not in targets.labels.tolist():
            assert (brightness(image) > 127).float().mean() < 0.02
            continue
        place = targets.labels.tolist().index(1)
        mask, box = targets.masks[place], targets.boxes[place]
        rows, columns = torch.nonzero(mask.any(1)).flatten(), torch.nonzero(mask.any(0)).flatten()
        if min(len(rows), len(columns)) < 8:
            continue  # a sliver at the border: blurred in the image
        seen += 1
        white = brightness(image) > 127
        # Bilinear and nearest resizing differ by some pixels along the edge, and nowhere else.
        assert not (white & ~grown(mask)).any() and not (mask & ~grown(white)).any()
        tight = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
        assert (box - tight).abs().max() <= 3.0
    assert seen > 20


def test_sizes_and_rates_are_drawn_as_specified() -> None:
    recipe = DataRecipe(
        train_short_sides=(40, 48),
        long_side=100,
        crop_short_sides=(50, 60, 70),
        crop_range=(38, 60),
        flip_probability=0.5,
    )
    transform, rng = TrainTransform(recipe, CATEGORIES), np.random.default_rng(0)
    sample = marked(64, 96, 4, 4, 20, 20)  # near the left edge, so that a flip shows
    whole: Counter[tuple[int, int]] = Counter()
    flips = crops = 0
    for _ in range(2000):
        image, targets = transform(sample, rng)
        height, width = image.shape[1:]
        assert min(height, width) in (40, 48) or max(height, width) == 100
        assert max(height, width) <= 100
        if (height, width) in ((40, 60), (48, 72)) and float(targets.masks[0].float().mean()) == pytest.approx(
            400 / 6144, rel=0.1
        ):
            whole[(height, width)] += 1
            flips += bool(targets.boxes[0, 0] > width / 2)
        else:
            crops += 1
    kept = sum(whole.values())
    # 4 standard deviations of a fair coin.
    assert abs(crops / 2000 - 0.5) < 4 * 0.5 / 2000**0.5
    assert abs(flips / kept - 0.5) < 4 * 0.5 / kept**0.5
    assert abs(whole[(40, 60)] / kept - 0.5) < 4 * 0.5 / kept**0.5


def test_crop_sides_are_uniform_between_the_limits_of_the_image() -> None:
    sample = marked(64, 96, 4, 4, 20, 20)
    scene = _Scene.of(sample.image, sample.annotation, CATEGORIES)
    rng = np.random.default_rng(0)
    sizes = [_random_crop(scene, (50, 80), rng).numbers.shape for _ in range(500)]
    heights, widths = np.array(sizes).T
    assert set(heights) == set(range(50, 65))  # the image is 64 high
    assert set(widths) == set(range(50, 81))
    assert abs(widths.mean() - 65) < 4 * (31**2 / 12 / 500) ** 0.5  # 4 standard deviations of the mean


def test_a_crop_without_objects_is_kept() -> None:
    sample = marked(200, 200, 0, 0, 4, 4)
    ids = np.where(sample.annotation.ids == 70000, 70000, 0).astype(np.int32)
    sample = replace(sample, annotation=PanopticMap(ids, sample.annotation.segments[:1]))
    recipe = DataRecipe(crop_probability=1, crop_short_sides=(200,), crop_range=(60, 60), train_short_sides=(60,))
    transform = TrainTransform(recipe, CATEGORIES)
    counts = {len(transform(sample, np.random.default_rng(seed))[1].labels) for seed in range(20)}
    assert 0 in counts


def test_equal_generators_draw_equal_items() -> None:
    transform = TrainTransform(DataRecipe(train_short_sides=(40, 48, 56)), CATEGORIES)
    sample = marked(64, 96, 8, 16, 20, 24)
    (one, targets), (two, again) = (transform(sample, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(one, two) and torch.equal(targets.masks, again.masks) and torch.equal(targets.boxes, again.boxes)
    others = [transform(sample, np.random.default_rng(seed))[0] for seed in range(6, 12)]
    assert any(other.shape != one.shape or not torch.equal(other, one) for other in others)


def test_the_sample_is_left_as_it_was() -> None:
    sample = marked(64, 96, 8, 16, 20, 24)
    image, ids = sample.image.copy(), sample.annotation.ids.copy()
    for seed in range(8):
        TrainTransform(DataRecipe(train_short_sides=(64,)), CATEGORIES)(sample, np.random.default_rng(seed))
    assert np.array_equal(sample.image, image) and np.array_equal(sample.annotation.ids, ids)
