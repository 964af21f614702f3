"""The random augmentation of training: its random choices and their frequencies (docs/model.md, "Augmentation")."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from panformer_cli.data import augmentation, labeled_image
from panformer_cli.data.augmentation import TrainTransform, _random_crop
from panformer_cli.data.labeled_image import LabeledImage
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import PanopticMap, Sample
from panformer_cli.data.transforms import resized_size
from panformer_cli.errors import RecipeError
from panformer_cli.settings import DataSettings
from tests.data.test_transforms import CATEGORIES, is_magenta, marked

SHORT_SIDES = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
CROP_SHORT_SIDES = (400, 500, 600)


def assert_uniform(values: Sequence[Hashable], choices: Iterable[Hashable]) -> None:
    """Check that all choices are equally frequent: chi-square within 4 standard deviations of its mean."""
    counts, known = Counter(values), list(choices)
    assert values
    assert set(counts) <= set(known)
    expected, freedom = len(values) / len(known), len(known) - 1
    chi_square = sum((counts[choice] - expected) ** 2 / expected for choice in known)
    assert chi_square <= freedom + 4 * (2 * freedom) ** 0.5


@dataclass
class Draw:
    """The random choices of one call of the transform.

    Attributes:
        flips: number of flips.
        resizes: height and width before each resize, and its largest short and long side.
        size: height and width of the result.
    """

    flips: int = 0
    resizes: list[tuple[int, int, int, int]] = field(default_factory=list)
    size: tuple[int, ...] = ()


class Recorder:
    """Draws with the default settings, which are the published ones, without computing pixels, for speed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._draw = Draw()
        monkeypatch.setattr(labeled_image, "resized_size", self._resized_size)
        monkeypatch.setattr(augmentation, "normalize", lambda image: torch.empty(3, *image.shape[:2], device="meta"))
        monkeypatch.setattr(cv2, "resize", self._resize)
        monkeypatch.setattr(LabeledImage, "flipped", lambda scene: self._flipped(scene))

    def draws(self, height: int, width: int, number: int) -> list[Draw]:
        image, ids = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.int32)
        sample = Sample(image, PanopticMap(ids, ()), 1, "a.jpg", "a.png")
        transform, rng = TrainTransform(DataSettings(), CATEGORIES), np.random.default_rng(0)
        found = []
        for _ in range(number):
            self._draw = Draw()
            self._draw.size = tuple(transform(sample, rng)[0].shape[1:])
            found.append(self._draw)
        return found

    def _resized_size(self, height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
        self._draw.resizes.append((height, width, short_side, long_side))
        return resized_size(height, width, short_side, long_side)

    @staticmethod
    def _resize(image: npt.NDArray[Any], size: tuple[int, int], interpolation: int) -> npt.NDArray[Any]:
        del interpolation
        return np.broadcast_to(np.zeros((), image.dtype), (size[1], size[0], *image.shape[2:]))

    def _flipped(self, scene: LabeledImage) -> LabeledImage:
        self._draw.flips += 1
        return scene


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


@pytest.mark.slow
def test_two_thousand_draws_at_the_published_settings(recorder: Recorder) -> None:
    draws = recorder.draws(427, 640, 2000)
    whole = [draw for draw in draws if len(draw.resizes) == 1]
    cropped = [draw for draw in draws if len(draw.resizes) == 2]
    assert len(whole) + len(cropped) == 2000
    assert_uniform([(draw.flips, len(draw.resizes)) for draw in draws], product((0, 1), (1, 2)))
    for draw in whole:
        ((height, width, short, long),) = draw.resizes
        assert (height, width, long) == (427, 640, 1333)
        assert draw.size == (short, int(640 * short / 427 + 0.5))
    assert_uniform([draw.resizes[0][2] for draw in whole], SHORT_SIDES)
    assert_uniform(
        [(draw.resizes[0][2], draw.resizes[1][2]) for draw in cropped], product(CROP_SHORT_SIDES, SHORT_SIDES)
    )
    for draw in cropped:
        assert draw.resizes[0][:2] == (427, 640)
        assert (draw.resizes[0][3], draw.resizes[1][3]) == (4200, 1333)
        height, width, short, _ = draw.resizes[1]
        scale = short / min(height, width)
        assert draw.size == (int(height * scale + 0.5), int(width * scale + 0.5))
        assert max(draw.size) <= 1333
        assert min(draw.size) == short


@pytest.mark.slow
def test_two_thousand_crops_at_the_published_settings(recorder: Recorder) -> None:
    """427 x 640 becomes 400 x 600, 500 x 749 or 600 x 899; no side of a crop exceeds the image or 600."""
    cropped = [draw.resizes for draw in recorder.draws(427, 640, 4000) if len(draw.resizes) == 2]
    for short in CROP_SHORT_SIDES:
        crops = [crop[:2] for first, crop in cropped if first[2] == short]
        assert_uniform([height for height, _ in crops], range(384, short + 1))
        assert_uniform([width for _, width in crops], range(384, 600 + 1))
    # Height and width are independent: 492 is the middle of 384 and 600.
    assert_uniform([(height > 492, width > 492) for height, width in crops], product((False, True), (False, True)))


def test_the_long_side_is_capped(recorder: Recorder) -> None:
    whole = [draw for draw in recorder.draws(300, 900, 200) if len(draw.resizes) == 1]
    assert {draw.size for draw in whole} == {(444, 1333)}, "480 x 1440 is too long, and so is every larger one"


@pytest.mark.parametrize(
    ("size", "sizes_before_the_crop", "heights", "widths"),
    [
        ((50, 40), {(500, 400), (625, 500), (750, 600)}, (384, 600), (384, 600)),  # small images are enlarged
        ((300, 900), {(400, 1200), (500, 1500), (600, 1800)}, (384, 600), (384, 600)),
        ((30, 640), {(197, 4200)}, (197, 197), (384, 600)),  # limited by the long side of 4200
        ((640, 30), {(4200, 197)}, (384, 600), (197, 197)),
    ],
)
def test_images_of_other_shapes(
    size: tuple[int, int],
    sizes_before_the_crop: set[tuple[int, int]],
    heights: tuple[int, int],
    widths: tuple[int, int],
    recorder: Recorder,
) -> None:
    draws = recorder.draws(*size, 400)
    firsts = [draw.resizes[0] for draw in draws if len(draw.resizes) == 2]
    assert {resized_size(*first) for first in firsts} == sizes_before_the_crop
    for draw in draws:
        height, width, short, long = draw.resizes[-1]
        assert long == 1333
        assert max(draw.size) == 1333 or (max(draw.size) < 1333 and min(draw.size) == short)
        if len(draw.resizes) == 2:
            assert heights[0] <= height <= heights[1]
            assert widths[0] <= width <= widths[1]


@pytest.mark.slow
def test_sizes_and_probabilities_are_as_specified() -> None:
    recipe = DataSettings(
        train_short_sides=(40, 48),
        long_side=100,
        crop_short_sides=(50, 60, 70),
        crop_range=(38, 60),
        flip_probability=0.5,
    )
    transform, rng = TrainTransform(recipe, CATEGORIES), np.random.default_rng(0)
    sample = marked(64, 96, 4, 4, 20, 20)  # near the left edge, so that a flip is visible
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


def test_crop_sides_are_uniform_up_to_the_size_of_the_image() -> None:
    sample = marked(64, 96, 4, 4, 20, 20)
    scene = LabeledImage.of(sample.image, sample.annotation, CATEGORIES)
    rng = np.random.default_rng(0)
    sizes = [_random_crop(scene, (50, 80), rng).numbers.shape for _ in range(500)]
    heights, widths = np.array(sizes).T
    assert set(heights) == set(range(50, 65))  # the image is 64 high
    assert set(widths) == set(range(50, 81))
    assert abs(widths.mean() - 65) < 4 * (31**2 / 12 / 500) ** 0.5  # 4 standard deviations of the mean


def test_crop_positions_are_uniform() -> None:
    rows, columns = np.mgrid[:64, :96]
    image = np.stack([rows, columns, rows], axis=-1).astype(np.uint8)  # each pixel encodes its position
    scene = LabeledImage.of(image, PanopticMap(np.zeros((64, 96), np.int32), ()), CATEGORIES)
    rng = np.random.default_rng(0)
    crops = [_random_crop(scene, (20, 20), rng).image for _ in range(2000)]
    assert_uniform([int(crop[0, 0, 0]) for crop in crops], range(64 - 20 + 1))
    assert_uniform([int(crop[0, 0, 1]) for crop in crops], range(96 - 20 + 1))


def test_equal_generators_give_equal_items() -> None:
    transform = TrainTransform(DataSettings(train_short_sides=(40, 48, 56)), CATEGORIES)
    sample = marked(64, 96, 8, 16, 20, 24)
    (one, targets), (two, again) = (transform(sample, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(one, two) and torch.equal(targets.masks, again.masks) and torch.equal(targets.boxes, again.boxes)
    others = [transform(sample, np.random.default_rng(seed))[0] for seed in range(6, 12)]
    assert any(other.shape != one.shape or not torch.equal(other, one) for other in others)


@pytest.mark.slow
def test_scale_jitter_draws_uniform_scales_and_crops_to_the_size_without_it() -> None:
    recipe = DataSettings(
        flip_probability=0, crop_probability=0, train_short_sides=(100,), long_side=400, scale_jitter=(0.5, 2.0)
    )
    transform, rng = TrainTransform(recipe, CATEGORIES), np.random.default_rng(0)
    sample = marked(50, 80, 5, 10, 30, 40)  # 100 x 160 without jitter; the patch is then 60 x 80
    sizes, scales = [], []
    for _ in range(1000):
        image, targets = transform(sample, rng)
        sizes.append(tuple(image.shape[1:]))
        if max(image.shape[1:]) < 160:  # smaller, so nothing is cut off
            box = targets.boxes[0]
            scales.append(float(box[2] - box[0]) / 80)
            assert scales[-1] == pytest.approx(image.shape[2] / 160, abs=0.02)
    assert all(height <= 100 and width <= 160 for height, width in sizes)
    assert abs(len(scales) / 1000 - 1 / 3) < 4 * (2 / 9 / 1000) ** 0.5  # scales from 0.5 to 1, of 0.5 to 2
    assert abs(np.mean(scales) - 0.75) < 4 * 0.5 / (12 * len(scales)) ** 0.5
    assert sizes.count((100, 160)) == 1000 - len(scales)


def test_scale_jitter_keeps_image_and_masks_together() -> None:
    recipe = DataSettings(crop_probability=0, train_short_sides=(100,), long_side=400, scale_jitter=(0.3, 3.0))
    transform, rng = TrainTransform(recipe, CATEGORIES), np.random.default_rng(0)
    for _ in range(20):
        image, targets = transform(marked(50, 80, 5, 10, 30, 40), rng)
        things = targets.masks[targets.labels == 1]
        patch = things[0] if len(things) else torch.zeros(image.shape[1:], dtype=torch.bool)
        assert (is_magenta(image) == patch).float().mean() > 0.95


@pytest.mark.parametrize("scales", [(0.0, 1.0), (2.0, 1.0), (0.5, 11.0), (float("nan"), 1.0)])
def test_impossible_scales_are_rejected(scales: tuple[float, float]) -> None:
    with pytest.raises(
        RecipeError, match=r"data.scale_jitter is \[.*\]: expected (\[smallest, largest\]|values of more than 0)"
    ):
        DataSettings(scale_jitter=scales)


def test_new_augmentation_is_off_by_default() -> None:
    settings = DataSettings()
    assert settings.scale_jitter is None and settings.color_jitter is None
    assert settings.copy_paste == settings.repeat_factor == 0


def test_items_of_the_published_settings_are_unchanged() -> None:
    """Recorded before other augmentation was added."""
    transform = TrainTransform(DataSettings(train_short_sides=(40, 48, 56), crop_short_sides=(50, 60)), CATEGORIES)
    hashed = hashlib.sha256()
    for seed in range(6):
        image, targets = transform(marked(64, 96, 8, 16, 20, 24), np.random.default_rng(seed))
        for tensor in (image, targets.labels, targets.boxes, targets.masks):
            hashed.update(tensor.numpy().tobytes())
    assert hashed.hexdigest() == "3e9f1f9144fbdd677f0aed562b12365e72253b292260902c4b336dbc7673cc83"
