"""An image with its segments, as the label formats receive it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import IdMap, PanopticMap
from panformer_cli.prepare.annotation_tools.shapes import Box, Mask, Points
from panformer_cli.prepare.export.outlines import Part, trace


@dataclass(frozen=True)
class LabeledSegment:
    """A segment, with the pixels that it has in the map.

    Attributes:
        id: Its id in the map.
        box: The smallest box that contains it.
        mask: (h, w) bool, the pixels of `box`.
        area: In pixels.
        is_crowd: Whether it is a group of objects that are annotated as one. Stuff never is.
        score: Confidence of a prediction; None for ground truth.
    """

    id: int
    category: Category
    box: Box
    mask: Mask
    area: int
    is_crowd: bool = False
    score: float | None = None

    def parts(self) -> list[Part]:
        """Return its outlines in the mask."""
        return trace(self.mask)

    def in_image(self, points: Points) -> Points:
        """Return points of the mask as points of the image."""
        return points + (self.box.left, self.box.top)


@dataclass(frozen=True)
class LabeledImage:
    """One image with its segments in drawing order: stuff, then things, large before small.

    Attributes:
        id: Id of the image in the panoptic JSON.
        file_name: Name of the image in the folder of its split, with `/` as separator.
        ids: (H, W) int32, the segment id of each pixel.
    """

    id: int | str
    file_name: str
    ids: IdMap
    segments: tuple[LabeledSegment, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.ids.shape[0], self.ids.shape[1]


def labeled_image(
    image_id: int | str, file_name: str, panoptic: PanopticMap, categories: CategoryTable
) -> LabeledImage:
    """Return the image; areas and boxes are measured on its map."""
    listed = {segment.id: segment for segment in panoptic.segments}
    found = segments_of(panoptic.ids, {number: segment.category_id for number, segment in listed.items()})
    segments = []
    for segment in found:
        left, top, width, height = map(int, segment.bbox)
        box, category = Box(top, left, top + height, left + width), categories.by_id(segment.category_id)
        mask = np.asarray(panoptic.ids[top : box.bottom, left : box.right] == segment.id)
        row = listed[segment.id]
        is_crowd = row.is_crowd and category.is_thing
        segments.append(LabeledSegment(segment.id, category, box, mask, segment.area, is_crowd, row.score))
    segments.sort(key=lambda segment: (segment.category.is_thing, -segment.area, segment.id))
    return LabeledImage(image_id, file_name, panoptic.ids, tuple(segments))
