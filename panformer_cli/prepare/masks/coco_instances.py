"""`prepare-data coco-instances`: convert things from a COCO detection JSON and optionally stuff from PNGs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from panformer_cli.data.categories import Category, CategoryTable, name_of
from panformer_cli.data.coco.json_values import whole_number
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import IdMap, PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.classes import read_classes
from panformer_cli.prepare.declared_size import check_size
from panformer_cli.prepare.left_out import BOX_ONLY, UNKNOWN_CLASS, AnnotationError, AnnotationLog, NoAreaError
from panformer_cli.prepare.masks.coco_json import CocoJson, ListedImage, read_categories, read_coco_json
from panformer_cli.prepare.masks.coco_layout import CocoSplit, ImageFinder, find_splits, unused_jsons
from panformer_cli.prepare.masks.coco_masks import mask_of_segmentation
from panformer_cli.prepare.overlap import Layer, OverlapRule, panoptic_of_layers
from panformer_cli.prepare.pixel_values import distinct_values, pixels_of, read_values
from panformer_cli.prepare.source import LabeledMap, SourceImage, without_object
from panformer_cli.storage.files import name_inside, resolve_links
from panformer_cli.wording import listing, short

_VOID_IDS = frozenset({0, 255})
"""Values in stuff PNGs that are void unless they are class ids."""


@dataclass(frozen=True)
class CocoInstances:
    """A data set with COCO instance annotations; open one with `open_coco_instances`.

    The `extra` of its images are `ListedImage`s.

    Attributes:
        layout: The splits by name.
        stuff_masks: The folder of stuff PNGs, if any.
    """

    root: Path
    categories: CategoryTable
    layout: Mapping[str, CocoSplit]
    overlap: OverlapRule
    stuff_masks: Path | None = None
    encoding: str | None = None
    own_files: tuple[Path, ...] = ()
    name: str = "coco-instances"

    @property
    def settings(self) -> dict[str, Any]:
        stuff_masks = str(resolve_links(self.stuff_masks)) if self.stuff_masks else None
        named = {"encoding": self.encoding} if self.encoding else {}
        return {"overlap": self.overlap, "stuff_masks": stuff_masks} | named

    @property
    def also_read(self) -> Sequence[Path]:
        """The folders of images outside of `root`."""
        return [split.top for split in self.layout.values() if not split.top.is_relative_to(self.root)]

    def splits(self) -> Sequence[str]:
        return list(self.layout)

    def conventions(self, split: str, marks: Mapping[str, int]) -> Sequence[str]:
        """Return a sentence about each JSON that is not used, once for all splits."""
        del marks
        unused = unused_jsons(self.root, self.layout) if split == next(iter(self.layout)) else ()
        return [f"{path} is not converted: it {reason}" for path, _, reason in unused]

    def images(self, split: str) -> Iterator[SourceImage]:
        annotation = _split(self.layout, split, self.root).annotation
        content = read_coco_json(annotation, self.encoding)
        names = {category.id: category.name for category in self.categories.categories}
        other = [row for row in content.categories if names.get(row["id"]) != name_of(row["name"])]
        if other:
            raise DataError(
                f"{annotation} has the category {short(other[0])}, which other splits do not have; expected the same "
                "categories in all splits"
            )
        masks = self.stuff_masks / split if self.stuff_masks else None
        if masks is not None and not masks.is_dir():
            masks = self.stuff_masks
        return _images(content, self.layout[split], masks)

    def read(self, image: SourceImage, size: tuple[int, int], log: AnnotationLog) -> PanopticMap:
        listed: ListedImage = image.extra
        annotation = image.labels[0]
        check_size((listed.row["height"], listed.row["width"]), size, f"{annotation}: the row of {image.file_name}")
        layers = []
        for line in listed.annotations.splitlines():
            with log.annotation():
                layers.append(self._layer(json.loads(line), annotation, size, log))
        where = f"{annotation}, image {image.file_name}"
        things = panoptic_of_layers(layers, size, self.categories, self.overlap, where, log)
        if self.stuff_masks is None:
            return things
        return with_stuff(things, len(layers), read_values(image.labels[1], size), self.categories, image.labels[1])

    def _layer(self, row: Sequence[Any], annotation: Path, size: tuple[int, int], log: AnnotationLog) -> Layer:
        number, category_id, is_crowd, segmentation, has_key_points = row
        where = f"{annotation}, annotation {short(number)}"
        if not segmentation and has_key_points:
            raise NoAreaError(f"{where} has only key points; expected polygons or an RLE")
        if segmentation is None or segmentation in ([], {}):
            raise AnnotationError(
                f"{where} has no segmentation, only a bounding box; expected polygons or an RLE", BOX_ONLY
            )
        category = self._category(whole_number(category_id), where)
        if is_crowd not in (None, 0, 1):
            raise AnnotationError(f"{where}: iscrowd is {short(is_crowd)}; expected 0 or 1")
        mask, top, left = mask_of_segmentation(segmentation, size, where, log)
        name = f"annotation {short(number)} ({category.name})"
        return Layer(category.id, mask, name, top, left, bool(is_crowd) and category.is_thing)

    def _category(self, category_id: Any, where: str) -> Category:
        if type(category_id) is int and category_id in self.categories:
            return self.categories.by_id(category_id)
        is_text = isinstance(category_id, str) and category_id in {str(row.id) for row in self.categories.categories}
        problem = "is text, but in `categories` a number" if is_text else "is not in `categories`"
        raise AnnotationError(
            f"{where}: the category_id {short(category_id)} {problem}; add it, or correct the id", UNKNOWN_CLASS
        )


def _images(content: CocoJson, split: CocoSplit, masks: Path | None) -> Iterator[SourceImage]:
    """Yield the images of a JSON, then one bad image for each row or image id that belongs to none.

    Args:
        content: The JSON.
        split: Where its images are.
        masks: The folder of stuff PNGs, if any.
    """
    finder = ImageFinder(split, (row["file_name"] for row in content.images))
    for listed in content.images_with_annotations():
        yield _image(listed, split, finder, masks)
    for number, problem in enumerate(chain(content.problems, content.lost_annotations()), 1):
        yield SourceImage(
            f"bad row {number}", split.annotation, f"row {number}.bad", (split.annotation,), problem=problem
        )


def _image(listed: ListedImage, split: CocoSplit, finder: ImageFinder, masks: Path | None) -> SourceImage:
    number, labels = listed.row["id"], [split.annotation]
    try:
        path, name = finder.find(listed.row["file_name"])
        if masks is not None:
            labels.append(name_inside(masks, str(PurePosixPath(name).with_suffix(".png")), str(split.annotation)))
    except DataError as error:
        name = listed.row["file_name"].strip("/\\") or f"image {number}.bad"
        return SourceImage(number, split.annotation, name, tuple(labels), problem=str(error))
    return SourceImage(number, path, name, tuple(labels), listed)


def _split(layout: Mapping[str, CocoSplit], split: str, root: Path) -> CocoSplit:
    if split not in layout:
        unused = next((found for found in unused_jsons(root, layout) if found.split == split), None)
        reason = f": {unused.path} {unused.reason}" if unused is not None else ""
        raise DataError(f"no split {split!r} in {root}{reason}; available splits: {', '.join(layout)}")
    return layout[split]


def open_coco_instances(
    root: Path,
    splits: Sequence[str] = (),
    overlap: OverlapRule = "last",
    classes: Path | None = None,
    stuff_masks: Path | None = None,
    encoding: str | None = None,
    layout: Mapping[str, CocoSplit] | None = None,
) -> CocoInstances:
    """Return the source in the folder `root`.

    Args:
        root: The folder of the data set.
        splits: The splits to read; if empty, all. The categories of the first one apply to all.
        overlap: Which object keeps shared pixels.
        classes: A class file that marks stuff categories and lists those of the stuff PNGs. It takes precedence over
            the JSON, whose categories are all things.
        stuff_masks: Folder of PNGs `[<split>/]<image name>.png` with a stuff class id per pixel.
        encoding: Encoding of a JSON or class file that is not UTF-8.
        layout: The splits, as `given_split` returns them. None finds them in `root`.

    Raises:
        DataError: A JSON or the class file cannot be used, or they disagree.
    """
    if stuff_masks is not None and classes is None:
        raise DataError(f"--stuff-masks {stuff_masks} requires --classes FILE with the names of its classes")
    if stuff_masks is not None and not stuff_masks.is_dir():
        raise DataError(f"the folder of stuff masks {stuff_masks} does not exist; check the path")
    layout = layout or find_splits(root)
    annotation = _split(layout, next(iter(splits or layout)), root).annotation
    rows = [{"id": row["id"], "name": row["name"], "isthing": 1} for row in read_categories(annotation, encoding)]
    table = CategoryTable.from_coco(rows, str(annotation))
    if classes is not None:
        table = _with_class_file(table, classes, annotation, encoding)
    own_files = (*(split.annotation for split in layout.values()), *((classes,) if classes else ()))
    return CocoInstances(root, table, layout, overlap, stuff_masks, encoding, own_files)


def _with_class_file(table: CategoryTable, classes: Path, annotation: Path, encoding: str | None) -> CategoryTable:
    """Return the categories of a class file, followed by the other ones of a JSON."""
    named = read_classes(classes, matched_by="id", encoding=encoding)
    for category in table.categories:
        if category.id in named and named.by_id(category.id).name != category.name:
            raise DataError(
                f"{classes} names the id {category.id} {named.by_id(category.id).name!r} but {annotation} names it "
                f"{category.name!r}; expected one name per id"
            )
    return CategoryTable([*named.categories, *(c for c in table.categories if c.id not in named)])


def with_stuff(things: PanopticMap, layers: int, classes: IdMap, table: CategoryTable, where: Path) -> LabeledMap:
    """Fill the void of a map of things with stuff, and count the class values that stay void.

    Args:
        things: The map of things.
        layers: Highest segment id in use.
        classes: (H, W) int32 class ids. Pixels of thing classes stay void, because their object is unknown.
        table: The category table.
        where: The file of `classes`, for error messages.

    Raises:
        DataError: `classes` contains an id that is not in the table.
    """
    found, index_of_pixel = distinct_values(classes)
    unknown = [number for number in found if number not in table and number not in _VOID_IDS]
    if unknown:
        raise DataError(
            f"{where} contains the class ids {listing(sorted(unknown))}, which are not in the class file; add them"
        )
    segments = {s.id: s.category_id for s in things.segments}
    id_of_class = {s.category_id: s.id for s in things.segments if not s.is_crowd}
    segment_of_class = np.zeros(len(found), np.int32)
    for index, number in enumerate(found):
        if number in table and not table.by_id(number).is_thing:
            segment_of_class[index] = id_of_class.get(number, layers + 1 + index)
            segments[int(segment_of_class[index])] = number
    ids = np.where(things.ids == 0, segment_of_class[index_of_pixel], things.ids)
    crowds = {segment.id for segment in things.segments if segment.is_crowd}
    still_void = pixels_of(index_of_pixel[ids == 0], len(found))
    void_values = {
        without_object(table.by_id(number)) if number in table else str(number): count
        for number, count in zip(found, still_void, strict=True)
        if count
    }
    return LabeledMap(ids, segments_of(ids, segments, crowds), void_values)
