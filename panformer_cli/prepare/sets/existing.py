"""COCO panoptic data sets as the source of another one."""

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
from panformer_cli.prepare.left_out import AnnotationLog
from panformer_cli.prepare.source import SourceImage


class Originals(NamedTuple):
    """Images of a part whose files, names and ids are used for annotations of another part, one each."""

    part: int
    indices: Sequence[int]


@dataclass(frozen=True)
class Chosen:
    """Images of a part for the new data set, in this order. Keeps only numbers in memory.

    Attributes:
        part: Index of the part in `ExistingSets.parts`.
        indices: Indices of the images in the part.
        folder: Prefix of their file names, ending in `/`.
        new_ids: New id of each image, None to keep its own. None keeps all.
        originals: The images to which these annotations belong, if not their own.
    """

    part: int
    indices: Sequence[int] | npt.NDArray[np.int64]
    folder: str = ""
    new_ids: Sequence[int | None] | None = None
    originals: Originals | None = None


class Place(NamedTuple):
    """The index of an image's part, and the image's index in that part."""

    part: int
    number: int


@dataclass(frozen=True)
class Part:
    """A split used in the new data set.

    Attributes:
        data: The split.
        new_id: The new category id of each old one; None makes its segments void.
    """

    data: CocoPanoptic
    new_id: Mapping[int, int | None]


@dataclass(frozen=True)
class ExistingSets:
    """A `Source` of images from other data sets, with its own categories.

    Attributes:
        parts: The splits that images are taken from.
        chosen: The images of each new split.
        remarks: What the user should know about the choice.
    """

    name: str
    root: Path
    categories: CategoryTable
    parts: tuple[Part, ...]
    chosen: Mapping[str, Sequence[Chosen]]
    settings: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def skipped(self) -> list[str]:
        """One sentence per image that is listed but not annotated, and therefore skipped."""
        return [sentence for part in self.parts for sentence in part.data.skipped]

    @property
    def also_read(self) -> list[Path]:
        """The folders of all parts, which may be outside of `root`."""
        layouts = [part.data.layout for part in self.parts]
        return [folder for layout in layouts for folder in (layout.images, layout.annotation.parent)]

    def splits(self) -> Sequence[str]:
        return list(self.chosen)

    def images(self, split: str) -> Iterator[SourceImage]:
        if split not in self.chosen:
            raise DataError(f"{self.root} has no split {split!r}; expected one of {', '.join(self.chosen)}")
        return (image for chosen in self.chosen[split] for image in self._images(chosen))

    def _images(self, chosen: Chosen) -> Iterator[SourceImage]:
        data = self.parts[chosen.part].data
        images = data if chosen.originals is None else self.parts[chosen.originals.part].data
        for number, index in enumerate(map(int, chosen.indices)):
            original = index if chosen.originals is None else chosen.originals.indices[number]
            info = images.image_info(original)
            new_id = None if chosen.new_ids is None else chosen.new_ids[number]
            yield SourceImage(
                info.id if new_id is None else new_id,
                images.image_path(original),
                f"{chosen.folder}{info.file_name}",
                (data.png_path(index), data.layout.annotation),
                Place(chosen.part, index),
            )

    def reads_panoptic_pngs(self, split: str) -> bool:
        """Return True."""
        return True

    def read(self, image: SourceImage, size: tuple[int, int], log: AnnotationLog) -> PanopticMap:
        part = self.parts[image.extra.part]
        return remapped(part.data.annotation(image.extra.number), part.new_id, self.categories)


def remapped(panoptic: PanopticMap, new_id: Mapping[int, int | None], categories: CategoryTable) -> PanopticMap:
    """Return the map with new categories. Segments keep their ids.

    Segments of one new stuff class become one, with the lowest of their ids. Stuff is never a crowd.

    Args:
        panoptic: The old map.
        new_id: The new category id of each old one; None is void.
        categories: The new table.
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
        present, index_of_pixel = np.unique(ids, return_inverse=True)
        new = np.array([number_of.get(number, 0) for number in present.tolist()], np.int32)
        ids = new[index_of_pixel.reshape(ids.shape)]
    return PanopticMap(ids, segments_of(ids, category_of_id, crowd_ids))


def unchanged(categories: CategoryTable) -> dict[int, int | None]:
    """Return the identity map of category ids."""
    return {category.id: category.id for category in categories.categories}
