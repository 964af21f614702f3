"""The random augmentation of training (docs/model.md, "Augmentation", and docs/training_options.md)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.color_jitter import change_colors, random_change
from panformer_cli.data.copy_paste import paste_things
from panformer_cli.data.labeled_image import LabeledImage
from panformer_cli.data.structures import Sample, Targets
from panformer_cli.data.transforms import LEAST_SIDE, normalize, resized_size
from panformer_cli.settings import CROP_LONG_SIDE, DataSettings


class TrainTransform:
    """The random augmentation of training: flip, then resize or resize-crop-resize; see `DataSettings`.

    Called with a sample and a generator, it returns the image (3, H, W) float32 and its targets. The random choices
    depend only on the generator and the size of the image. With a second sample, things of that one, augmented too, are
    pasted into the image.
    """

    def __init__(self, recipe: DataSettings, categories: CategoryTable) -> None:
        self._recipe = recipe
        self._categories = categories

    def __call__(
        self, sample: Sample, rng: np.random.Generator, paste_from: Sample | None = None
    ) -> tuple[Tensor, Targets]:
        labeled = self._placed(sample, rng)
        if paste_from is not None:
            labeled = paste_things(labeled, self._placed(paste_from, rng), self._categories.num_things, rng)
        image = labeled.image
        if self._recipe.color_jitter is not None:
            image = change_colors(image, random_change(self._recipe.color_jitter, rng))
        return normalize(image), labeled.targets()

    def _placed(self, sample: Sample, rng: np.random.Generator) -> LabeledImage:
        """Return the image after all changes of size and position."""
        recipe = self._recipe
        labeled = LabeledImage.of(sample.image, sample.annotation, self._categories)
        if rng.random() < recipe.flip_probability:
            labeled = labeled.flipped()
        if rng.random() < recipe.crop_probability:
            labeled = labeled.resized(_one_of(recipe.crop_short_sides, rng), CROP_LONG_SIDE)
            labeled = _random_crop(labeled, recipe.crop_range, rng)
        short_side = _one_of(recipe.train_short_sides, rng)
        if recipe.scale_jitter is None:
            return labeled.resized(short_side, recipe.long_side)
        size = resized_size(*labeled.size, short_side, recipe.long_side)
        return _scale_jittered(labeled, size, recipe.scale_jitter, rng)


def _one_of(sizes: Sequence[int], rng: np.random.Generator) -> int:
    return sizes[int(rng.integers(len(sizes)))]


def _random_crop(labeled: LabeledImage, crop_range: tuple[int, int], rng: np.random.Generator) -> LabeledImage:
    """Return a random window with sides drawn from `crop_range`, limited by the image. It may contain no object."""
    smallest, largest = crop_range
    sides = [int(rng.integers(min(side, smallest), min(side, largest) + 1)) for side in labeled.size]
    return _random_window(labeled, sides, rng)


def _random_window(labeled: LabeledImage, sides: Sequence[int], rng: np.random.Generator) -> LabeledImage:
    """Return a window of this height and width at a random position."""
    corner = [int(rng.integers(side - taken + 1)) for side, taken in zip(labeled.size, sides, strict=True)]
    return labeled.cropped(corner[0], corner[1], sides[0], sides[1])


def _scale_jittered(
    labeled: LabeledImage, size: tuple[int, int], scales: tuple[float, float], rng: np.random.Generator
) -> LabeledImage:
    """Return the image resized to `size` times a random scale; a larger one is cropped to `size` at random."""
    scale = rng.uniform(*scales)
    height, width = (max(LEAST_SIDE, int(side * scale + 0.5)) for side in size)
    labeled = labeled.resized_to(height, width)
    return _random_window(labeled, [min(height, size[0]), min(width, size[1])], rng).visible()
