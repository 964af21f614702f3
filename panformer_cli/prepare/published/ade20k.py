"""`prepare-data ade20k`: convert ADE20K's scene parsing release with instances, as Mask2Former prepares it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from panformer_cli.data.ade20k_classes import CATEGORIES, INSTANCE_CLASSES
from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import IdMap, ImageArray
from panformer_cli.errors import DataError
from panformer_cli.prepare.left_out import AnnotationLog
from panformer_cli.prepare.pixel_values import distinct_values, read_channels, read_values
from panformer_cli.prepare.source import (
    LabeledMap,
    SourceImage,
    listed_files,
    listed_pngs,
    with_unused_labels,
    without_object,
)
from panformer_cli.storage.files import name_inside

_OBJECTS = 256
"""Instance maps number objects from 1 to 255. A thing's segment id is 256 x (category id + 1) + number."""


@dataclass(frozen=True)
class Ade20k:
    """The folder `ADEChallengeData2016` with `annotations_instance` in it, or its parent folder."""

    root: Path
    name: str = "ade20k"
    categories: CategoryTable = CATEGORIES
    settings: dict[str, Any] = field(default_factory=dict)

    def splits(self) -> Sequence[str]:
        """Return the splits with images and annotations: `training`, `validation`."""
        found = sorted(path.name for path in self._folder("annotations").iterdir() if path.is_dir())
        complete = [split for split in found if (self._folder("images") / split).is_dir()]
        if not complete:
            raise DataError(
                f"{self._data} has no split with both images/<split> and annotations/<split>; expected training and "
                "validation; unpack ADEChallengeData2016.zip there"
            )
        return complete

    def images(self, split: str) -> Iterator[SourceImage]:
        """Return the images; the id is the file name without extension, as in Mask2Former's panoptic JSON."""
        if split not in self.splits():
            raise DataError(f"{self._data} has no split {split}; available splits: {', '.join(self.splits())}")
        labels = listed_pngs(self._folder("annotations") / split)
        return with_unused_labels(self._images(split), labels, self._folder("images") / split)

    def read(self, image: SourceImage, size: tuple[int, int], log: AnnotationLog) -> LabeledMap:
        """Return the stuff of the semantic map with the objects of the instance map on top."""
        semantic_map, instance_map = image.labels
        semantic = read_values(semantic_map, size)
        ids, category_of_stuff = _stuff(semantic, semantic_map)
        category_of_thing = _paint_things(ids, read_channels(instance_map, size), instance_map)
        segments = segments_of(ids, category_of_stuff | category_of_thing)
        return LabeledMap(ids, segments, _void_values(semantic[ids == 0]))

    @property
    def _data(self) -> Path:
        inner = self.root / "ADEChallengeData2016"
        return inner if inner.is_dir() else self.root

    def _folder(self, name: str) -> Path:
        folder = self._data / name
        if not folder.is_dir():
            raise DataError(
                f"{self._data} has no folder {name}; expected images/ and annotations/ of ADEChallengeData2016.zip "
                "(sceneparsing.csail.mit.edu); check --root"
            )
        return folder

    def _images(self, split: str) -> Iterator[SourceImage]:
        image_folder, semantic = self._folder("images") / split, self._folder("annotations") / split
        instances = self._data / "annotations_instance" / split
        if not instances.is_dir():
            raise DataError(
                f"the folder {instances}, which separates objects of a class, is missing; download "
                "annotations_instance.tar (sceneparsing.csail.mit.edu, data/ChallengeData2017) and unpack it in "
                f"{self._data}"
            )
        for path in listed_files(image_folder):
            inner = path.relative_to(image_folder)
            png = inner.with_suffix(".png").as_posix()
            labels = tuple(name_inside(folder, png, str(folder)) for folder in (semantic, instances))
            yield SourceImage(path.stem, path, inner.as_posix(), labels)


def _void_values(semantic: IdMap) -> dict[str, int]:
    """Return the number of pixels of each semantic value, given those of the pixels (N,) that became void."""
    values, counts = np.unique(semantic, return_counts=True)
    names = [without_object(CATEGORIES.by_id(value - 1)) if value else "0" for value in values.tolist()]
    return dict(zip(names, counts.tolist(), strict=True))


def _stuff(semantic: IdMap, path: Path) -> tuple[IdMap, dict[int, int]]:
    """Return segment ids (H, W), which are the semantic values of stuff and 0 elsewhere, and their categories."""
    values, index_of_pixel = distinct_values(semantic)
    if not 0 <= values[0] <= values[-1] <= len(CATEGORIES):
        raise DataError(
            f"the semantic map {path} contains the value {values[-1]}; expected 0 (unlabeled) to {len(CATEGORIES)}; "
            "restore the original file"
        )
    category_of_id = {value: value - 1 for value in values if value and not CATEGORIES.by_id(value - 1).is_thing}
    numbers = [value if value in category_of_id else 0 for value in values]
    return np.array(numbers, np.int32)[index_of_pixel], category_of_id


def _paint_things(ids: IdMap, instances: ImageArray, path: Path) -> dict[int, int]:
    """Paint the objects over `ids` and return the category of each of their segment ids.

    The red channel is the class. The green channel is the object's number, 0 for none.
    """
    is_object = instances[..., 1] > 0
    objects = instances[is_object].astype(np.int32)
    if not objects.size:
        return {}
    keys, index_of_pixel = distinct_values(256 * objects[:, 0] + objects[:, 1])
    numbers: list[int] = []
    category_of_id: dict[int, int] = {}
    class_of_object: dict[int, int] = {}
    for key in keys:
        instance_class, number = divmod(key, 256)
        category_id = INSTANCE_CLASSES[instance_class] if instance_class < len(INSTANCE_CLASSES) else None
        if category_id is None:
            raise DataError(
                f"the instance map {path} assigns object {number} the class {instance_class}; expected 1 to "
                f"{len(INSTANCE_CLASSES) - 1} in the red channel; restore the original file"
            )
        if class_of_object.setdefault(number, instance_class) != instance_class:
            raise DataError(
                f"the instance map {path} assigns object {number} the classes {class_of_object[number]} and "
                f"{instance_class}; expected one class per object; restore the original file"
            )
        numbers.append((category_id + 1) * _OBJECTS + number)
        category_of_id[numbers[-1]] = category_id
    ids[is_object] = np.array(numbers, np.int32)[index_of_pixel]
    return category_of_id
