"""The batch of a data set that needs the most memory: the largest images with the most segments; and a usual size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.structures import Batch, Targets
from panformer_cli.data.transforms import LEAST_SIDE, resized_size
from panformer_cli.settings import DataSettings


@dataclass(frozen=True)
class WorstCase:
    """Bounds of what training can load.

    Attributes:
        single: Height and width of the largest image, after resizing, in pixels.
        padded: Height and width of the largest canvas of several images.
        things: Most objects of an image.
        stuff: Most stuff segments of an image.
    """

    single: tuple[int, int]
    padded: tuple[int, int]
    things: int
    stuff: int


def worst_case(data: CocoPanoptic, settings: DataSettings) -> WorstCase:
    """Return the bounds of a training split, from its JSON. They may be higher than what occurs, never lower."""
    short, long = max(settings.train_short_sides), settings.long_side
    *_, heights, widths = zip(*data.listed.images.lists(), strict=True)
    sizes = {
        (long, long) if height is None or width is None else resized_size(height, width, short, long)
        for height, width in set(zip(heights, widths, strict=True))
    }
    if settings.crop_probability > 0:
        least, most = settings.crop_range
        sizes |= {resized_size(least, most, short, long), resized_size(most, least, short, long)}
    canvas = max(height for height, _ in sizes), max(width for _, width in sizes)
    is_thing = data.listed.rows["label"] < data.categories.num_things
    things, stuff = (_most(of_kind, data.listed.starts) for of_kind in (is_thing, ~is_thing))
    if settings.copy_paste > 0:
        things *= 2
    return WorstCase(max(sizes, key=_area), canvas, things, stuff)


def usual_size(data: CocoPanoptic, settings: DataSettings) -> tuple[int, int] | None:
    """Return a height and width in pixels that training reaches for certain; None if the JSON has no sizes.

    It is the median of the images' areas at the largest short side, so half of the images are at least as large then.
    """
    short, long = max(settings.train_short_sides), settings.long_side
    if settings.crop_probability < 1:
        *_, heights, widths = zip(*data.listed.images.lists(), strict=True)
        listed = zip(heights, widths, strict=True)
        sizes = [resized_size(height, width, short, long) for height, width in listed if height and width]
    else:  # a crop has no more extreme shape than this one, and none has fewer pixels than both
        least, most = settings.crop_range
        sizes = [min(resized_size(least, least, short, long), resized_size(least, most, short, long), key=_area)]
    if not sizes:
        return None
    height, width = sorted(sizes, key=_area)[len(sizes) // 2]
    low, high = settings.scale_jitter or (1.0, 1.0)
    scale = min(1.0, (low + high) / 2)  # larger images are cropped to their size without it
    return max(LEAST_SIDE, int(height * scale)), max(LEAST_SIDE, int(width * scale))


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _most(
    chosen: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], starts: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
) -> int:
    """Return the largest number of chosen segments of an image."""
    before = np.concatenate(([0], chosen.cumsum()))
    return int(np.diff(before[starts]).max(initial=0))


def worst_batch(case: WorstCase, images: int, categories: CategoryTable) -> Batch:
    """Return noise with as many segments as the worst case has, which are rectangles. It is the same at every call."""
    size = case.single if images == 1 else case.padded
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(images, 3, *size, generator=generator)
    targets = [_rectangles(size, case, categories, generator) for _ in range(images)]
    return Batch(pixels, torch.zeros(images, *size, dtype=torch.bool), targets, [*range(images)])


def _rectangles(
    size: tuple[int, int], case: WorstCase, categories: CategoryTable, generator: torch.Generator
) -> Targets:
    """Return rectangles of a quarter to half of the image's sides."""
    height, width = size
    stuff_classes = len(categories) - categories.num_things
    labels = [number % max(categories.num_things, 1) for number in range(case.things)]
    labels += [categories.num_things + number % max(stuff_classes, 1) for number in range(case.stuff)]
    extent = torch.tensor([width, height])
    low = (torch.rand(len(labels), 2, generator=generator) * extent / 2).floor()
    high = low + (extent / 4 + torch.rand(len(labels), 2, generator=generator) * extent / 4).floor()
    masks = torch.zeros(len(labels), height, width, dtype=torch.bool)
    boxes = torch.cat([low, high], 1)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    return Targets(torch.tensor(labels, dtype=torch.int64), boxes, masks)
