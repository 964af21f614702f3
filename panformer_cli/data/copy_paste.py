"""Copy-paste augmentation for panoptic segmentation: things of one image are pasted into another (arXiv:2012.07177)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from panformer_cli.data.coco.panoptic_annotation import PanopticAnnotation
from panformer_cli.data.labeled_image import LEAST_AREA, LabeledImage

SHARE = 0.5
"""Probability that a thing of the other image is pasted. At least one is."""


def images_with_things(annotation: PanopticAnnotation) -> npt.NDArray[np.int64]:
    """Return the indices of the images that have a thing to paste, in ascending order. Crowds are not pasted."""
    rows = annotation.rows
    image = np.repeat(np.arange(len(annotation.images)), np.diff(annotation.starts))
    return np.unique(image[(rows["label"] < annotation.categories.num_things) & ~rows["is_crowd"].astype(bool)])


def other_image(candidates: npt.NDArray[np.int64], image: int, rng: np.random.Generator) -> int:
    """Return one of `candidates` at random, not `image` itself unless it is the only one."""
    others = candidates[candidates != image]
    return int(rng.choice(others if len(others) else candidates))


def paste_things(target: LabeledImage, source: LabeledImage, num_things: int, rng: np.random.Generator) -> LabeledImage:
    """Return `target` with some things of `source` on top.

    The smaller of the two is at a random position inside the larger one. What the pasted things cover is removed from
    the segments below, so each pixel still belongs to one segment or to none. Areas and boxes are those of the visible
    pixels; segments with fewer than `LEAST_AREA` of them are dropped.

    Args:
        num_things: number of thing classes; labels below it are things.
    """
    (below, above) = _common_window(target, source, rng)
    numbers = source.numbers[above]
    areas = np.bincount(numbers.reshape(-1), minlength=len(source.labels) + 1)[1:]
    things = np.flatnonzero((source.labels < num_things) & (areas >= LEAST_AREA))
    if not len(things):
        return target.visible()
    chosen = things[rng.random(len(things)) < SHARE]
    if not len(chosen):
        chosen = rng.choice(things, 1)
    new_number = np.zeros(len(source.labels) + 1, np.uint16)
    new_number[chosen + 1] = len(target.labels) + 1 + np.arange(len(chosen))
    pasted = new_number[numbers]
    pixels = pasted > 0
    image, merged = target.image.copy(), target.numbers.copy()
    image[below][pixels] = source.image[above][pixels]
    merged[below][pixels] = pasted[pixels]
    labels = np.concatenate([target.labels, source.labels[chosen]])
    boxes = np.concatenate([target.boxes, source.boxes[chosen]])  # computed again from the pixels
    return LabeledImage(image, merged, labels, boxes).visible()


def _common_window(
    target: LabeledImage, source: LabeledImage, rng: np.random.Generator
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the same window in both images, as large as possible; on each axis one of the images is covered."""
    below, above = [], []
    for size, other in zip(target.size, source.size, strict=True):
        length = min(size, other)
        start = int(rng.integers(max(size, other) - length + 1))
        first, second = (start, 0) if size > other else (0, start)
        below.append(slice(first, first + length))
        above.append(slice(second, second + length))
    return tuple(below), tuple(above)
