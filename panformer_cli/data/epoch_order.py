"""The order of the training images: which image is at which position of which epoch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from panformer_cli.data.coco.panoptic_annotation import PanopticAnnotation

RepeatFactors = npt.NDArray[np.float64]
"""(images,) float64, 1 or more: the mean number of uses of each image in an epoch."""


class Draw(NamedTuple):
    """An image at a position of training: with the seed, all that its random augmentation depends on.

    Attributes:
        epoch: from 0.
        position: position in the epoch's order of images, from 0.
        image: index in the data set.
    """

    epoch: int
    position: int
    image: int


class EpochOrder:
    """The shuffled images of an epoch, divided into optimizer steps.

    The order depends only on seed and epoch. Images that do not fill the last step are dropped. If the data set has
    fewer images than one step needs, some are repeated.

    Args:
        images: number of images in the data set.
        batch_size: images per optimizer step, over all processes.
        seed: seed of the run.
        factors: how often each image is used; None for once each.

    Attributes:
        steps: optimizer steps of every epoch. With repeat factors, an epoch has as many images as they are on average.
    """

    def __init__(self, images: int, batch_size: int, seed: int, factors: RepeatFactors | None = None) -> None:
        self._images = images
        self._batch_size = batch_size
        self._seed = seed
        self._factors = factors
        length = images if factors is None else int(factors.sum())
        self.steps = max(1, length // batch_size)

    def step_draws(self, epoch: int, first_step: int = 0) -> list[list[Draw]]:
        """Return the `batch_size` images of each step from `first_step` on."""
        rng = np.random.default_rng((self._seed, epoch, 0))
        order = rng.permutation(self._images)
        if self._factors is not None:
            order = rng.permutation(np.repeat(order, _rounded(self._factors[order], rng)))
        order = np.resize(order, self.steps * self._batch_size)  # cuts, or repeats from the start
        draws = [Draw(epoch, position, image) for position, image in enumerate(order.tolist())]
        starts = range(first_step * self._batch_size, len(draws), self._batch_size)
        return [draws[start : start + self._batch_size] for start in starts]


def repeat_factors(annotation: PanopticAnnotation, threshold: float) -> RepeatFactors:
    """Return how often each image is used in an epoch, so that rare classes are seen more often (LVIS, appendix B).

    A class that is in a fraction f of the images has the factor max(1, sqrt(threshold / f)); an image has the largest
    factor of its classes, and 1 without any. Crowds do not count, because training does not use them.

    Args:
        annotation: annotation of the training split.
        threshold: fraction of the images, 0..1, below which a class is rare.
    """
    rows = annotation.rows
    images = len(annotation.images)
    used = ~rows["is_crowd"].astype(bool)
    image = np.repeat(np.arange(images), np.diff(annotation.starts))[used]
    label = rows["label"].astype(np.int64)[used]
    classes = len(annotation.categories)
    image, label = np.divmod(np.unique(image * classes + label), classes)  # each class once per image
    frequency = np.bincount(label, minlength=classes) / images
    of_class = np.maximum(1.0, np.sqrt(threshold / np.maximum(frequency, 1 / images)))
    factors = np.ones(images)
    np.maximum.at(factors, image, of_class[label])
    return factors


def _rounded(factors: RepeatFactors, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return each factor rounded up or down at random, with the factor as its mean.

    A single draw decides for all factors (systematic sampling), so the sum is that of the factors, rounded up or down.
    """
    whole = np.floor(factors)
    steps = np.concatenate(([0.0], np.cumsum(factors - whole))) + rng.random()
    return (whole + np.diff(np.floor(steps))).astype(np.int64)
