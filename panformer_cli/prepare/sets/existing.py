"""Data sets in COCO's panoptic form as the source of another one: part of them, both together, or other categories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.source import SourceImage


@dataclass(frozen=True)
class Chosen:
    """Images of a part that the new set takes, in this order; of millions of them only numbers are in memory.

    part: number of the part, among `ExistingSets.parts`.
    indices: the places of the images in it.
    folder: stands before their file names, with a `/` at its end.
    new_ids: the id of each image in the new set, None where it keeps its own; None: everywhere.
    """

    part: int
    indices: Sequence[int] | npt.NDArray[np.int64]
    folder: str = ""
    new_ids: Sequence[int | None] | None = None


class Place(NamedTuple):
    """Where an image is: the number of its part, and its own number there."""

    part: int
    number: int


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

    @property
    def also_read(self) -> list[Path]:
        """Those of all parts, which need not lie in `root`."""
        layouts = [part.data.layout for part in self.parts]
        return [folder for layout in layouts for folder in (layout.images, layout.annotation.parent)]

    def splits(self) -> Sequence[str]:
        return list(self.chosen)

    def images(self, split: str) -> Iterator[SourceImage]:
        if split not in self.chosen:
            raise DataError(f"{self.root} gives no split {split!r}; expected one of {', '.join(self.chosen)}")
        return (image for chosen in self.chosen[split] for image in self._images(chosen))

    def _images(self, chosen: Chosen) -> Iterator[SourceImage]:
        data = self.parts[chosen.part].data
        for number, index in enumerate(map(int, chosen.indices)):
            info = data.image_info(index)
            new_id = None if chosen.new_ids is None else chosen.new_ids[number]
            yield SourceImage(
                info.id if new_id is None else new_id,
                data.image_path(index),
                f"{chosen.folder}{info.file_name}",
                (data.png_path(index), data.layout.annotation),
                Place(chosen.part, index),
            )

    def reads_panoptic_pngs(self, split: str) -> bool:
        """As `ReadsPanopticPngs`."""
        return True

    def read(self, image: SourceImage, size: tuple[int, int]) -> PanopticMap:
        part = self.parts[image.extra.part]
        return remapped(part.data.annotation(image.extra.number), part.new_id, self.categories)


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
