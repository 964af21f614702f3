"""Transforms of an image and its annotation to the input of the model (docs/model.md, "Input" and "Augmentation")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_png import id_runs
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import IdMap, ImageArray, PanopticMap, Sample, Segment, Targets
from panformer_cli.settings import CROP_LONG_SIDE, DataSettings

MEAN = (123.675, 116.28, 103.53)
"""Mean of the channels R, G, B over ImageNet, 0..255."""
STD = (58.395, 57.12, 57.375)
"""Standard deviation of the channels R, G, B over ImageNet, 0..255."""

LEAST_SIDE = 32
"""In pixels; at this size the coarsest feature map of each backbone is one cell."""

# A channel has only 256 values, so normalization is a table lookup: (3, 256) float32.
_MEAN, _STD = np.array(MEAN, np.float32)[:, None], np.array(STD, np.float32)[:, None]
_NORMALIZED = (np.arange(256, dtype=np.float32) - _MEAN) / _STD


def resized_size(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """Return height and width after resizing to sides of at most `short_side` and `long_side`.

    The aspect ratio is kept, but no side gets shorter than `LEAST_SIDE`, the minimum for the backbones.

    >>> resized_size(480, 640, 800, 1333)
    (800, 1067)
    """
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return max(LEAST_SIDE, int(height * scale + 0.5)), max(LEAST_SIDE, int(width * scale + 0.5))


def resize_image(image: ImageArray, height: int, width: int) -> ImageArray:
    """Resize (H, W, 3) uint8 to (height, width, 3), bilinearly and without antialiasing."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def normalize(image: ImageArray) -> Tensor:
    """Return (H, W, 3) uint8 RGB as (3, H, W) float32 with mean 0 and standard deviation 1 over ImageNet."""
    channels = np.empty((3, *image.shape[:2]), np.float32)
    for channel, table in enumerate(_NORMALIZED):
        np.take(table, image[:, :, channel], out=channels[channel])
    return torch.from_numpy(channels)


def prepare_image(image: ImageArray, short_side: int, long_side: int) -> Tensor:
    """Return the model's input at inference: (H, W, 3) uint8 RGB, resized and normalized to (3, H', W') float32."""
    height, width = image.shape[:2]
    return normalize(resize_image(image, *resized_size(height, width, short_side, long_side)))


def targets_of(annotation: PanopticMap, categories: CategoryTable) -> Targets:
    """Return the targets of an annotation at its original size."""
    height, width = annotation.ids.shape
    return _Scene.of(np.zeros((height, width, 3), np.uint8), annotation, categories).targets()


class TrainTransform:
    """The random augmentation of training: flip, then resize or resize-crop-resize; see `DataSettings`.

    Called with a sample and a generator, it returns the image (3, H, W) float32 and its targets. The random choices
    depend only on the generator and the size of the image.
    """

    def __init__(self, recipe: DataSettings, categories: CategoryTable) -> None:
        self._recipe = recipe
        self._categories = categories

    def __call__(self, sample: Sample, rng: np.random.Generator) -> tuple[Tensor, Targets]:
        recipe = self._recipe
        scene = _Scene.of(sample.image, sample.annotation, self._categories)
        if rng.random() < recipe.flip_probability:
            scene = scene.flipped()
        if rng.random() < recipe.crop_probability:
            scene = scene.resized(_one_of(recipe.crop_short_sides, rng), CROP_LONG_SIDE)
            scene = _random_crop(scene, recipe.crop_range, rng)
        scene = scene.resized(_one_of(recipe.train_short_sides, rng), recipe.long_side)
        return normalize(scene.image), scene.targets()


@dataclass
class _Scene:
    """An image with its segments, between transforms.

    Attributes:
        image: (H, W, 3) uint8.
        numbers: (H, W) uint16: k + 1 on segment k, 0 elsewhere and on crowds.
        labels: (N,) int64.
        boxes: (N, 4) float32, x1, y1, x2, y2 in pixels.
    """

    image: ImageArray
    numbers: npt.NDArray[np.uint16]
    labels: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]

    @classmethod
    def of(cls, image: ImageArray, annotation: PanopticMap, categories: CategoryTable) -> _Scene:
        segments = [segment for segment in annotation.segments if not segment.is_crowd]
        boxes = np.array([segment.bbox for segment in segments], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([categories.label(segment.category_id) for segment in segments], np.int64)
        return cls(image, _number_map(annotation.ids, segments), labels, boxes)

    def flipped(self) -> _Scene:
        boxes = self.boxes.copy()
        boxes[:, [0, 2]] = self.image.shape[1] - boxes[:, [2, 0]]
        image = np.asarray(cv2.flip(self.image, 1), np.uint8)
        return _Scene(image, np.asarray(cv2.flip(self.numbers, 1), np.uint16), self.labels, boxes)

    def resized(self, short_side: int, long_side: int) -> _Scene:
        old_height, old_width = self.numbers.shape
        height, width = resized_size(old_height, old_width, short_side, long_side)
        if (height, width) == (old_height, old_width):
            return self
        numbers = cv2.resize(self.numbers, (width, height), interpolation=cv2.INTER_NEAREST)
        ratio = np.array([width / old_width, height / old_height] * 2, np.float32)
        image = resize_image(self.image, height, width)
        return _Scene(image, np.asarray(numbers, np.uint16), self.labels, self.boxes * ratio)

    def cropped(self, top: int, left: int, height: int, width: int) -> _Scene:
        window = np.s_[top : top + height, left : left + width]
        boxes = self.boxes - np.array([left, top, left, top], np.float32)
        return _Scene(self.image[window], self.numbers[window], self.labels, _clipped(boxes, height, width))

    def targets(self) -> Targets:
        boxes = _clipped(self.boxes, *self.numbers.shape)
        kept = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
        masks = self.numbers[None] == (kept + 1).astype(np.uint16)[:, None, None]
        return Targets(torch.from_numpy(self.labels[kept]), torch.from_numpy(boxes[kept]), torch.from_numpy(masks))


def _number_map(ids: IdMap, segments: Sequence[Segment]) -> npt.NDArray[np.uint16]:
    """Return the index in `segments` + 1 for each pixel; 0 for other ids."""
    if not segments:
        return np.zeros(ids.shape, np.uint16)
    known = np.array([segment.id for segment in segments])
    order = np.argsort(known)
    values, lengths = id_runs(ids)
    indices = order[np.searchsorted(known, values, sorter=order).clip(max=len(known) - 1)]
    numbers = np.where(known[indices] == values, indices + 1, 0).astype(np.uint16)
    return np.repeat(numbers, lengths).reshape(ids.shape)


def _clipped(boxes: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    return boxes.clip(0, np.array([width, height, width, height], np.float32))


def _one_of(sizes: Sequence[int], rng: np.random.Generator) -> int:
    return sizes[int(rng.integers(len(sizes)))]


def _random_crop(scene: _Scene, crop_range: tuple[int, int], rng: np.random.Generator) -> _Scene:
    """Return a random window with sides drawn from `crop_range`, limited by the image. It may contain no object."""
    smallest, largest = crop_range
    sides = [int(rng.integers(min(side, smallest), min(side, largest) + 1)) for side in scene.numbers.shape]
    corner = [int(rng.integers(side - taken + 1)) for side, taken in zip(scene.numbers.shape, sides, strict=True)]
    return scene.cropped(*corner, *sides)
