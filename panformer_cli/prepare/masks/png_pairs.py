"""`prepare-data png-pairs`: convert class and instance ids per pixel, in two PNGs or in the channels of one.

The single PNG is the two-channel format of panopticapi (Kirillov et al., Panoptic Segmentation, CVPR 2019) and the
format of KITTI-STEP: R is the class, G and B are the instance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import IdMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.classes import read_classes
from panformer_cli.prepare.left_out import AnnotationLog
from panformer_cli.prepare.masks.label_folders import find_splits, image_files, label_png, split_folder
from panformer_cli.prepare.pixel_values import distinct_values, pixels_of, read_channels, read_values
from panformer_cli.prepare.source import LabeledMap, SourceImage, listed_pngs, with_unused_labels
from panformer_cli.wording import counted, listing

USUAL_VOID = frozenset({0, 255})
"""Class ids that are void unless they are in the class file."""

CrowdInstance = Literal["0", "255", "none"]
"""The instance id that marks the crowds of thing classes."""

_ASSUMED: CrowdInstance = "0"
"""The convention of KITTI-STEP, unless the PNGs contradict it."""

_BITS = 16
"""Bits of a class id and of an instance id."""


@dataclass(frozen=True)
class PngPairs:
    """A data set of class and instance PNGs; open one with `open_png_pairs`.

    Attributes:
        folders: The label folders: `semantic` and `instance`, or only `panoptic`.
        void: Class ids that are void.
        crowd_instance: The instance id of crowds; None if it was not passed.
    """

    root: Path
    categories: CategoryTable
    folders: tuple[str, ...]
    void: frozenset[int]
    crowd_instance: CrowdInstance | None = None
    own_files: tuple[Path, ...] = ()
    name: str = "png-pairs"

    @property
    def settings(self) -> dict[str, Any]:
        passed = {"crowd_instance": self.crowd_instance} if self.crowd_instance else {}
        return {"folders": list(self.folders), "void": sorted(self.void), **passed}

    def splits(self) -> Sequence[str]:
        return find_splits(self.root)

    def images(self, split: str) -> Iterator[SourceImage]:
        folders = [split_folder(self.root, kind, split) for kind in self.folders]
        images = (
            SourceImage(
                number,
                image_file.path,
                image_file.name,
                tuple(label_png(folder, image_file) for folder in folders),
            )
            for number, image_file in enumerate(image_files(self.root, split), 1)
        )
        labels = chain.from_iterable(map(listed_pngs, folders))
        return with_unused_labels(images, labels, split_folder(self.root, "images", split))

    def conventions(self, split: str, marks: Mapping[str, int]) -> list[str]:
        """Return what was assumed about the instance ids 0 and 255 of thing classes."""
        del split
        if self.crowd_instance is not None:
            return []
        if marks.get("0"):
            return [
                f"{_marked('0', marks)} of thing classes was taken as a crowd; if objects are numbered from 0, pass "
                "--crowd-instance 255 or none"
            ]
        if marks.get("255"):
            return [
                f"{_marked('255', marks)} of thing classes was taken as an object; if it marks crowds, pass "
                "--crowd-instance 255"
            ]
        return []

    def check_marks(self, marks: Mapping[str, Mapping[str, int]]) -> None:
        """Raise a DataError if both 0 and 255 occur in thing classes, so that either may mark crowds."""
        if self.crowd_instance is not None:
            return
        # one split with both, or else one with each
        first = {number: next((split for split in marks if marks[split].get(number)), None) for number in ("0", "255")}
        both = next((split for split in marks if marks[split].get("0") and marks[split].get("255")), None)
        zero, last = (both, both) if both is not None else (first["0"], first["255"])
        if zero is None or last is None:
            return
        where = f", {zero}" if zero == last else ""
        found = [
            f"{_marked(number, marks[split])}{'' if where else f' in {split}'}"
            for number, split in (("0", zero), ("255", last))
        ]
        raise DataError(
            f"{self.root}{where}: thing classes have {' and '.join(found)}, and either may mark crowds; pass "
            "--crowd-instance 0 (as in KITTI-STEP), --crowd-instance 255 (as in two-channel PNGs of panopticapi, "
            "which number objects from 0), or --crowd-instance none"
        )

    def read(self, image: SourceImage, size: tuple[int, int], log: AnnotationLog) -> LabeledMap:
        if len(image.labels) == 1:
            channels = read_channels(image.labels[0], size).astype(np.int32)
            # The order of G and B does not matter: equal ids stay equal.
            classes, instances = channels[..., 0], channels[..., 1] + 256 * channels[..., 2]
        else:
            classes, instances = (read_values(path, size) for path in image.labels)
        crowd = self.crowd_instance or _ASSUMED
        return panoptic_of_pairs(classes, instances, self.categories, self.void, image.labels[0], crowd)


def _marked(number: str, marks: Mapping[str, int]) -> str:
    return f"instance {number} ({counted(marks[number], 'pixel')})"


def open_png_pairs(
    root: Path,
    classes: Path,
    void: Sequence[int] = (),
    crowd_instance: CrowdInstance | None = None,
    encoding: str | None = None,
) -> PngPairs:
    """Return the source in the folder `root`.

    Args:
        root: The folder of the data set.
        classes: A class file for `read_classes`.
        void: Class ids that are void in addition to `USUAL_VOID`.
        crowd_instance: The instance id of crowds; None: 0, unless both 0 and 255 occur in thing classes.
        encoding: Encoding of a class file that is not UTF-8.

    Raises:
        DataError: The class file cannot be used or lists a void id, or label folders are missing.
    """
    table = read_classes(classes, matched_by="id", encoding=encoding)
    named = [number for number in void if number in table]
    if named:
        raise DataError(f"--void {named[0]} is a class in {classes}; remove it from one of them")
    usual = frozenset(number for number in USUAL_VOID if number not in table)
    return PngPairs(root, table, _label_folders(root), usual | frozenset(void), crowd_instance, (classes,))


def _label_folders(root: Path) -> tuple[str, ...]:
    there = [name for name in ("semantic", "instance", "panoptic") if (root / name).is_dir()]
    if there not in (["semantic", "instance"], ["panoptic"]):
        found = " and ".join(there) or "none of them"
        raise DataError(
            f"{root} must contain the folders semantic and instance, or only panoptic, next to images; found {found} "
            "(for labels without instances, use panformer prepare-data masks)"
        )
    return tuple(there)


def panoptic_of_pairs(
    classes: IdMap,
    instances: IdMap,
    categories: CategoryTable,
    void: frozenset[int],
    where: Path,
    crowd_instance: CrowdInstance = _ASSUMED,
) -> LabeledMap:
    """Return the panoptic map of a class map and an instance map.

    Each pair of thing class and instance is one thing. Instances of stuff are ignored. Segments are numbered from 1 by
    class, then instance. The marks of the map are the pixels of thing classes with the instances 0 and 255.

    Args:
        classes: (H, W) int32 class ids.
        instances: (H, W) int32 instance ids, 0..65535.
        categories: The category table.
        void: Class ids that are void.
        where: The file of `classes`, for error messages.
        crowd_instance: The instance of a thing class that is a crowd.

    Raises:
        DataError: A class id is neither in the table nor void.
    """
    pairs, index_of_pixel = distinct_values(classes.astype(np.int64) << _BITS | instances)
    unknown = {pair >> _BITS for pair in pairs} - {category.id for category in categories.categories} - void
    if unknown:
        raise DataError(
            f"{where} contains the class ids {listing(sorted(unknown))}, which are not in the class file; "
            "add them, or mark them as void with --void"
        )
    number_of: dict[tuple[int, int], int] = {}
    segment_of_pair = np.zeros(len(pairs), np.int32)
    void_values, marks, crowds = Counter[str](), Counter[str](), set[int]()
    for index, (pair, pixels) in enumerate(zip(pairs, pixels_of(index_of_pixel, len(pairs)), strict=True)):
        category_id, instance = pair >> _BITS, pair & 2**_BITS - 1
        if category_id in void:
            void_values[str(category_id)] += pixels
            continue
        is_thing = categories.by_id(category_id).is_thing
        key = (category_id, instance if is_thing else 0)
        segment_of_pair[index] = number = number_of.setdefault(key, len(number_of) + 1)
        if is_thing and instance in (0, 255):
            marks[str(instance)] += pixels
        if is_thing and str(instance) == crowd_instance:
            crowds.add(number)
    ids = segment_of_pair[index_of_pixel]
    segments = segments_of(ids, {n: category_id for (category_id, _), n in number_of.items()}, crowds)
    return LabeledMap(ids, segments, void_values, marks)
