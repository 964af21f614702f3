"""`prepare-data png-pairs`: a class and an instance for every pixel, in two PNGs or in the channels of one.

The second form is that of the panoptic segmentation paper (Kirillov et al., CVPR 2019) and of KITTI-STEP: R is the
class, G and B are the instance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import IdMap, PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.classes import read_classes
from panformer_cli.prepare.masks.label_folders import find_splits, pictures, split_folder
from panformer_cli.prepare.pixel_values import distinct_values, read_channels, read_values
from panformer_cli.prepare.source import SourceImage, listed_pngs, with_unused_labels
from panformer_cli.storage.files import name_inside
from panformer_cli.wording import listing

USUAL_VOID = frozenset({0, 255})
"""Values that are void unless a class has them as its id."""

_BITS = 16
"""Of a class id and of an instance id each."""


@dataclass(frozen=True)
class PngPairs:
    """The source; `open_png_pairs` makes one.

    folders: those of the labels: `semantic` and `instance`, or `panoptic` alone.
    void: class ids that are no class.
    """

    root: Path
    categories: CategoryTable
    folders: tuple[str, ...]
    void: frozenset[int]
    name: str = "png-pairs"

    @property
    def settings(self) -> dict[str, Any]:
        return {"folders": list(self.folders), "void": sorted(self.void)}

    def splits(self) -> Sequence[str]:
        return find_splits(self.root)

    def images(self, split: str) -> Iterator[SourceImage]:
        folders = [split_folder(self.root, kind, split) for kind in self.folders]
        images = (
            SourceImage(
                number,
                picture.path,
                picture.name,
                tuple(name_inside(folder, f"{picture.stem}.png", str(picture.path)) for folder in folders),
            )
            for number, picture in enumerate(pictures(self.root, split), 1)
        )
        labels = chain.from_iterable(map(listed_pngs, folders))
        return with_unused_labels(images, labels, split_folder(self.root, "images", split))

    def read(self, image: SourceImage, size: tuple[int, int]) -> PanopticMap:
        if len(image.labels) == 1:
            channels = read_channels(image.labels[0], size).astype(np.int32)
            # The order of G and B does not matter: equal numbers stay equal.
            classes, instances = channels[..., 0], channels[..., 1] + 256 * channels[..., 2]
        else:
            classes, instances = (read_values(path, size) for path in image.labels)
        return panoptic_of_pairs(classes, instances, self.categories, self.void, image.labels[0])


def open_png_pairs(root: Path, classes: Path, void: Sequence[int] = ()) -> PngPairs:
    """The source in the folder `root`.

    classes: the class file, as `read_classes` takes it.
    void: ids that are no class, beside `USUAL_VOID`.

    Raises:
        DataError: the class file cannot be used, names a void id, or there are not the folders of one form.
    """
    table = read_classes(classes)
    named = [number for number in void if number in table]
    if named:
        raise DataError(f"--void {named[0]} is a class of {classes}; take it out of one of them")
    usual = frozenset(number for number in USUAL_VOID if number not in table)
    return PngPairs(root, table, _label_folders(root), usual | frozenset(void))


def _label_folders(root: Path) -> tuple[str, ...]:
    there = [name for name in ("semantic", "instance", "panoptic") if (root / name).is_dir()]
    if there not in (["semantic", "instance"], ["panoptic"]):
        found = " and ".join(there) or "none of them"
        raise DataError(
            f"{root} must hold the folders semantic and instance, or panoptic alone, beside images; found {found} "
            "(where nothing separates objects of one class: panformer prepare-data masks)"
        )
    return tuple(there)


def panoptic_of_pairs(
    classes: IdMap, instances: IdMap, categories: CategoryTable, void: frozenset[int], where: Path
) -> PanopticMap:
    """The panoptic map of a class id and an instance id (0 to 65535) for every pixel.

    classes, instances: (H, W) int32.
    A thing is what has one class and one instance. Pixels of a thing class with instance 0 are one crowd; of stuff the
    instance is of no account. Segments are numbered from 1 in ascending class, then instance.

    Raises:
        DataError: a class id is neither in the table nor void; `where` says in which file.
    """
    pairs, place_of_pixel = distinct_values(classes.astype(np.int64) << _BITS | instances)
    unknown = {pair >> _BITS for pair in pairs} - {category.id for category in categories.categories} - void
    if unknown:
        raise DataError(
            f"{where} holds the class ids {listing(sorted(unknown))}, which are not in the class file; "
            "add them there, or name them with --void"
        )
    number_of: dict[tuple[int, int], int] = {}
    segment_of_pair = np.zeros(len(pairs), np.int32)
    for place, pair in enumerate(pairs):
        category_id, instance = pair >> _BITS, pair & 2**_BITS - 1
        if category_id not in void:
            key = (category_id, instance if categories.by_id(category_id).is_thing else 0)
            segment_of_pair[place] = number_of.setdefault(key, len(number_of) + 1)
    ids = segment_of_pair[place_of_pixel]
    crowds = {n for (category_id, i), n in number_of.items() if i == 0 and categories.by_id(category_id).is_thing}
    return PanopticMap(ids, segments_of(ids, {n: category_id for (category_id, _), n in number_of.items()}, crowds))
