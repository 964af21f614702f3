"""Data structures passed between files and model.

Letters for shapes: B batch, H x W image, N segments of an image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # commands that only prepare data start six times as fast without torch
    import torch
    from torch import Tensor

ImageArray = npt.NDArray[np.uint8]
"""(H, W, 3) uint8, RGB."""

IdMap = npt.NDArray[np.int32]
"""(H, W) int32: the segment id of each pixel; 0 is void."""


@dataclass(frozen=True)
class Segment:
    """One annotated or predicted segment of a panoptic map.

    Attributes:
        id: the value of its pixels in the panoptic map, 1 or more.
        category_id: dataset id of its category.
        area: in pixels.
        bbox: (x, y, width, height) in pixels, x and y of the top-left corner.
        is_crowd: a group of objects annotated as one segment; used neither in training nor in scoring.
        score: confidence of a prediction, 0 or more and rarely above 1, since mask quality has no upper bound
            (docs/model.md, "Inference and merging"). None for ground truth.
    """

    id: int
    category_id: int
    area: int
    bbox: tuple[float, float, float, float]
    is_crowd: bool = False
    score: float | None = None

    @property
    def box_slices(self) -> tuple[slice, slice]:
        """The rows and columns of the box, to index an image or a map."""
        x, y, width, height = map(int, self.bbox)
        return slice(y, y + height), slice(x, x + width)


@dataclass(frozen=True)
class PanopticMap:
    """The panoptic segmentation of one image: the segment id of each pixel, and the segments."""

    ids: IdMap
    segments: tuple[Segment, ...]

    def boxed_mask(self, segment: Segment) -> npt.NDArray[np.bool_]:
        """Return the pixels of a segment in its box, (h, w) bool."""
        return np.asarray(self.ids[segment.box_slices] == segment.id)


@dataclass
class Sample:
    """One image with its annotation, as read from disk.

    Attributes:
        image: (H, W, 3) uint8 RGB, EXIF orientation applied.
        annotation: the ground truth at the same size.
        image_id: dataset id of the image.
        file_name: file name of the image, as in the annotation.
        png_name: file name of its panoptic PNG, as in the annotation.
    """

    image: ImageArray
    annotation: PanopticMap
    image_id: int | str
    file_name: str
    png_name: str


@dataclass
class Targets:
    """Ground truth of one image at the input size of the model, without crowd segments.

    Attributes:
        labels: (N,) int64, labels of the category table (things and stuff together).
        boxes: (N, 4) float32, x1, y1, x2, y2 in pixels of the image without padding.
        masks: (N, H, W) bool, size of the image without padding.
    """

    labels: Tensor
    boxes: Tensor
    masks: Tensor

    def to(self, device: torch.device | str) -> Targets:
        return Targets(self.labels.to(device), self.boxes.to(device), self.masks.to(device))


@dataclass
class Batch:
    """Images of one forward pass, each in the top-left corner of a zero canvas.

    Attributes:
        images: (B, 3, H, W) float32, normalized (docs/model.md, "Input").
        padding_mask: (B, H, W) bool, True on padding.
        targets: one `Targets` per image.
        image_ids: dataset ids of the images.
    """

    images: Tensor
    padding_mask: Tensor
    targets: list[Targets] = field(default_factory=list)
    image_ids: list[int | str] = field(default_factory=list)

    def split(self, size: int) -> list[Batch]:
        """Return batches of up to `size` images, each on a canvas of its largest image."""
        if len(self.targets) <= size:
            return [self]
        parts = []
        for first in range(0, len(self.targets), size):
            chosen = slice(first, first + size)
            targets = self.targets[chosen]
            height = max(target.masks.shape[-2] for target in targets)
            width = max(target.masks.shape[-1] for target in targets)
            images = self.images[chosen, :, :height, :width]
            parts.append(Batch(images, self.padding_mask[chosen, :height, :width], targets, self.image_ids[chosen]))
        return parts

    def to(self, device: torch.device | str) -> Batch:
        return Batch(
            self.images.to(device),
            self.padding_mask.to(device),
            [target.to(device) for target in self.targets],
            self.image_ids,
        )
