"""Generated index maps and panoptic maps."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.visualization.labels import IndexMap


def mosaic(height: int, width: int, count: int, seed: int) -> IndexMap:
    """Return cells of random seeds, each pixel with the nearest of `count` seeds, without void."""
    rng = np.random.default_rng(seed)
    seeds = rng.uniform(0, (height, width), (count, 2))
    rows, columns = np.mgrid[:height, :width]
    distance = [(rows - y) ** 2 + (columns - x) ** 2 for y, x in seeds]
    return np.asarray(np.argmin(distance, axis=0) + 1, np.uint16)


def blobs(height: int, width: int, count: int, seed: int) -> IndexMap:
    """Return ragged regions with holes, specks and void, from `count` levels of blurred noise."""
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), max(2, min(height, width) / 12))
    order = blurred.argsort(axis=None).argsort().reshape(height, width)
    return np.asarray(order * (count + 1) // order.size, np.uint16)


def scattered(height: int, width: int, count: int, seed: int) -> IndexMap:
    """Return rectangles and ellipses on top of each other, on stripes; some are thin, some cross the edge."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    index: IndexMap = np.asarray(rows * 3 // height + 1, np.uint16)
    for number in range(4, count + 1):
        y, x = rng.uniform(0, (height, width))
        half_height, half_width = rng.uniform(0.01, 0.25, 2) * (height, width)
        down, right = np.abs(rows - y) / half_height, np.abs(columns - x) / half_width
        index[np.hypot(down, right) < 1 if number % 2 else np.maximum(down, right) < 1] = number
    return index


def single_pixels(height: int, width: int, count: int, seed: int) -> IndexMap:
    """Return noise: every pixel has a random segment or void."""
    return np.random.default_rng(seed).integers(0, count + 1, (height, width)).astype(np.uint16)


MAPS: tuple[Callable[[int, int, int, int], IndexMap], ...] = (mosaic, blobs, scattered, single_pixels)


def enlarged(index: IndexMap, height: int, width: int) -> IndexMap:
    """Return the map at another size."""
    return np.asarray(cv2.resize(index, (width, height), interpolation=cv2.INTER_NEAREST), np.uint16)


def panoptic_of(index: IndexMap, category_ids: dict[int, int], score: float | None = None) -> PanopticMap:
    """Return the panoptic map with the category of each number in the index map."""
    segments = tuple(
        Segment(number, category_id, int((index == number).sum()), (0, 0, 0, 0), score=score)
        for number, category_id in category_ids.items()
    )
    return PanopticMap(index.astype(np.int32), segments)
