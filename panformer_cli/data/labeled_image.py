"""A training image with its segments, and the geometric operations of augmentation on both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_png import id_runs
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import IdMap, ImageArray, PanopticMap, Segment, Targets
from panformer_cli.data.transforms import resize_image, resized_size

LEAST_AREA = 16
"""Minimum pixels of a segment that augmentation has made smaller or covered; see `LabeledImage.visible`."""


@dataclass
class LabeledImage:
    """An image with its segments, between operations. Each pixel belongs to one segment or to none.

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
    def of(cls, image: ImageArray, annotation: PanopticMap, categories: CategoryTable) -> LabeledImage:
        """Return an image with the segments of its annotation that are not crowds."""
        segments = [segment for segment in annotation.segments if not segment.is_crowd]
        boxes = np.array([segment.bbox for segment in segments], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([categories.label(segment.category_id) for segment in segments], np.int64)
        return cls(image, _number_map(annotation.ids, segments), labels, boxes)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        height, width = self.numbers.shape
        return height, width

    def flipped(self) -> LabeledImage:
        boxes = self.boxes.copy()
        boxes[:, [0, 2]] = self.image.shape[1] - boxes[:, [2, 0]]
        image = np.asarray(cv2.flip(self.image, 1), np.uint8)
        return LabeledImage(image, np.asarray(cv2.flip(self.numbers, 1), np.uint16), self.labels, boxes)

    def resized(self, short_side: int, long_side: int) -> LabeledImage:
        """Return the image with sides of at most `short_side` and `long_side`; see `resized_size`."""
        return self.resized_to(*resized_size(*self.size, short_side, long_side))

    def resized_to(self, height: int, width: int) -> LabeledImage:
        old_height, old_width = self.size
        if (height, width) == (old_height, old_width):
            return self
        numbers = cv2.resize(self.numbers, (width, height), interpolation=cv2.INTER_NEAREST)
        ratio = np.array([width / old_width, height / old_height] * 2, np.float32)
        image = resize_image(self.image, height, width)
        return LabeledImage(image, np.asarray(numbers, np.uint16), self.labels, self.boxes * ratio)

    def cropped(self, top: int, left: int, height: int, width: int) -> LabeledImage:
        window = np.s_[top : top + height, left : left + width]
        boxes = self.boxes - np.array([left, top, left, top], np.float32)
        return LabeledImage(self.image[window], self.numbers[window], self.labels, _clipped(boxes, height, width))

    def visible(self) -> LabeledImage:
        """Return the segments with at least `LEAST_AREA` pixels, with the boxes of their pixels; others become void."""
        areas = np.bincount(self.numbers.reshape(-1), minlength=len(self.labels) + 1)[1:]
        kept = np.flatnonzero(areas >= LEAST_AREA)
        new_number = np.zeros(len(self.labels) + 1, np.uint16)
        new_number[kept + 1] = np.arange(1, len(kept) + 1)
        numbers = new_number[self.numbers]
        places = ndimage.find_objects(numbers.astype(np.int32), max_label=len(kept))
        boxes = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in places]
        return LabeledImage(self.image, numbers, self.labels[kept], np.array(boxes, np.float32).reshape(-1, 4))

    def targets(self) -> Targets:
        boxes = _clipped(self.boxes, *self.size)
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
