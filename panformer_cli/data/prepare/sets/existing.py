"""Data sets in COCO's panoptic form as the source of another one: part of them, both together, or other categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco_panoptic import CocoPanoptic
from panformer_cli.data.panoptic_writer import segments_of
from panformer_cli.data.prepare.source import SourceImage
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError


@dataclass(frozen=True, slots=True)
class Chosen:
    """An image for the new set.

    part: number of the split that it is in, among `ExistingSets.parts`.
    index: its place there.
    id, file_name: in the new set.
    """

    part: int
    index: int
    id: int | str
    file_name: str


@dataclass(frozen=True)
class Part:
    """A split that flows into the new set.

    new_id: the new category id of each category id of the split; None makes its segments void.
    """

    data: CocoPanoptic
    new_id: Mapping[int, int | None]


@dataclass(frozen=True)
class ExistingSets:
    """A `Source` that takes images of other sets as they are, in categories of its own.

    chosen: the images of each split of the new set.
    """

    name: str
    root: Path
    categories: CategoryTable
    parts: tuple[Part, ...]
    chosen: Mapping[str, Sequence[Chosen]]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def skipped(self) -> list[str]:
        """One sentence for each image that the sets list but do not annotate: it is left out."""
        return [sentence for part in self.parts for sentence in part.data.skipped]

    def splits(self) -> Sequence[str]:
        return list(self.chosen)

    def images(self, split: str) -> Sequence[SourceImage]:
        if split not in self.chosen:
            raise DataError(f"{self.root} gives no split {split!r}; expected one of {', '.join(self.chosen)}")
        return [self._image(one) for one in self.chosen[split]]

    def _image(self, one: Chosen) -> SourceImage:
        data = self.parts[one.part].data
        labels = (data.png_path(one.index), data.layout.annotation)
        return SourceImage(one.id, data.image_path(one.index), one.file_name, labels, one)

    def read(self, image: SourceImage, size: tuple[int, int]) -> PanopticMap:
        part = self.parts[image.extra.part]
        return remapped(part.data.annotation(image.extra.index), part.new_id, self.categories)


def remapped(panoptic: PanopticMap, new_id: Mapping[int, int | None], categories: CategoryTable) -> PanopticMap:
    """The map in other categories; segments keep their ids.

    new_id: the new category id of each old one; None makes void.
    categories: the new table. Segments that fall into one stuff class become one, with the lowest of their ids; stuff
        is never a crowd.
    """
    number_of: dict[int, int] = {}
    category_of_id: dict[int, int] = {}
    first_of_stuff: dict[int, int] = {}
    crowd_ids = set()
    for segment in sorted(panoptic.segments, key=lambda segment: segment.id):
        category_id = new_id[segment.category_id]
        number = 0 if category_id is None else segment.id
        if category_id is not None:
            if not categories.by_id(category_id).is_thing:
                number = first_of_stuff.setdefault(category_id, segment.id)
            elif segment.is_crowd:
                crowd_ids.add(number)
            category_of_id[number] = category_id
        number_of[segment.id] = number
    ids = panoptic.ids
    if any(old != new for old, new in number_of.items()):
        present, place = np.unique(ids, return_inverse=True)
        new = np.array([number_of.get(number, 0) for number in present.tolist()], np.int32)
        ids = new[place.reshape(ids.shape)]
    return PanopticMap(ids, segments_of(ids, category_of_id, crowd_ids))


def unchanged(categories: CategoryTable) -> dict[int, int | None]:
    """The map of categories onto themselves."""
    return {category.id: category.id for category in categories.categories}


def kept(data: CocoPanoptic, part: int, indices: Sequence[int]) -> list[Chosen]:
    """Images of a split under their own ids and names."""
    infos = ((index, data.image_info(index)) for index in indices)
    return [Chosen(part, index, info.id, info.file_name) for index, info in infos]
