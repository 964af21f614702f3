"""`prepare-data coco-instances`: convert things from a COCO detection JSON and optionally stuff from PNGs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from panformer_cli.data.categories import CategoryTable, name_of
from panformer_cli.data.coco.json_stream import read_members
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.disk_list import DiskList
from panformer_cli.data.layout import check_split_name, find_images
from panformer_cli.data.structures import IdMap, PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.classes import read_classes
from panformer_cli.prepare.masks.coco_masks import mask_of_segmentation
from panformer_cli.prepare.overlap import Layer, OverlapRule, panoptic_of_layers
from panformer_cli.prepare.pixel_values import distinct_values, pixels_of, read_values
from panformer_cli.prepare.source import LabeledMap, SourceImage, without_object
from panformer_cli.storage.files import name_inside, resolve_links
from panformer_cli.wording import listing, short

_EXPORT = "_annotations.coco.json"
"""Roboflow's JSON, next to the images of a split."""
_VOID_IDS = frozenset({0, 255})
"""Values in stuff PNGs that are void unless they are class ids."""


class _Rows(NamedTuple):
    """The JSON rows of an image.

    Attributes:
        size: Height and width in the JSON, each None if missing.
        text: Annotations, one JSON list `[id, category_id, iscrowd, segmentation]` per line.
    """

    size: tuple[Any, Any]
    text: bytes


@dataclass(frozen=True)
class CocoInstances:
    """A data set with COCO instance annotations; open one with `open_coco_instances`.

    The `extra` of its images are their `_Rows`.

    Attributes:
        stuff_masks: The folder of stuff PNGs, if any.
    """

    root: Path
    categories: CategoryTable
    overlap: OverlapRule
    stuff_masks: Path | None = None
    name: str = "coco-instances"

    @property
    def settings(self) -> dict[str, Any]:
        stuff_masks = str(resolve_links(self.stuff_masks)) if self.stuff_masks else None
        return {"overlap": self.overlap, "stuff_masks": stuff_masks}

    def splits(self) -> Sequence[str]:
        return find_splits(self.root)

    def images(self, split: str) -> Iterator[SourceImage]:
        annotation, folder = find_parts(self.root, split)
        content = _read_json(annotation)
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
        return (_image(row, text, annotation, folder, masks) for row, text in content.images_with_annotations())

    def read(self, image: SourceImage, size: tuple[int, int]) -> PanopticMap:
        rows: _Rows = image.extra
        annotation = image.labels[0]
        if rows.size not in ((None, None), size):
            raise DataError(
                f"{annotation} lists {image.file_name} as {rows.size[1]}x{rows.size[0]} but it is displayed as "
                f"{size[1]}x{size[0]} (width x height, EXIF orientation applied); expected equal sizes"
            )
        annotations = [json.loads(line) for line in rows.text.splitlines()]
        layers = [self._layer(row, annotation, size) for row in annotations]
        where = f"{annotation}, image {image.file_name}"
        things = panoptic_of_layers(layers, size, self.categories, self.overlap, where)
        if self.stuff_masks is None:
            return things
        return with_stuff(things, len(layers), read_values(image.labels[1], size), self.categories, image.labels[1])

    def _layer(self, row: Sequence[Any], annotation: Path, size: tuple[int, int]) -> Layer:
        number, category_id, is_crowd, segmentation = row
        where = f"{annotation}, annotation {short(number)}"
        if type(category_id) is not int or category_id not in self.categories:
            raise DataError(
                f"{where}: the category_id {short(category_id)} is not in `categories`; add it, or correct the id"
            )
        if is_crowd not in (0, 1):
            raise DataError(f"{where}: iscrowd is {short(is_crowd)}; expected 0 or 1")
        mask, top, left = mask_of_segmentation(segmentation, size, where)
        category = self.categories.by_id(category_id)
        name = f"annotation {short(number)} ({category.name})"
        return Layer(category_id, mask, name, top, left, bool(is_crowd) and category.is_thing)


def _image(row: Mapping[str, Any], text: bytes, annotation: Path, folder: Path, masks: Path | None) -> SourceImage:
    """Return the source image of a row; `text` is that of its `_Rows`, `masks` the folder of stuff PNGs."""
    name = row["file_name"].replace("\\", "/")
    image_path = name_inside(folder, name, str(annotation))
    labels = [annotation]
    if masks is not None:
        labels.append(name_inside(masks, str(PurePosixPath(name).with_suffix(".png")), str(annotation)))
    rows = _Rows((row["height"], row["width"]), text)
    return SourceImage(row["id"], image_path, name, tuple(labels), rows)


def open_coco_instances(
    root: Path,
    splits: Sequence[str] = (),
    overlap: OverlapRule = "last",
    classes: Path | None = None,
    stuff_masks: Path | None = None,
) -> CocoInstances:
    """Return the source in the folder `root`.

    Args:
        root: The folder of the data set.
        splits: The splits to read; if empty, all. The categories of the first one apply to all.
        overlap: Which object keeps shared pixels.
        classes: A class file that marks stuff categories and lists those of the stuff PNGs. It takes precedence over
            the JSON, whose categories are all things.
        stuff_masks: Folder of PNGs `[<split>/]<image name>.png` with a stuff class id per pixel.

    Raises:
        DataError: A JSON or the class file cannot be used, or they disagree.
    """
    if stuff_masks is not None and classes is None:
        raise DataError(f"--stuff-masks {stuff_masks} requires --classes FILE with the names of its classes")
    if stuff_masks is not None and not stuff_masks.is_dir():
        raise DataError(f"the folder of stuff masks {stuff_masks} does not exist; check the path")
    annotation, _ = find_parts(root, next(iter(splits), "") or find_splits(root)[0])
    rows = [{"id": row["id"], "name": row["name"], "isthing": 1} for row in _categories(annotation)]
    table = CategoryTable.from_coco(rows, str(annotation))
    return CocoInstances(root, _with_class_file(table, classes, annotation) if classes else table, overlap, stuff_masks)


def _with_class_file(table: CategoryTable, classes: Path, annotation: Path) -> CategoryTable:
    """Return the categories of a class file, followed by the other ones of a JSON."""
    named = read_classes(classes, matched_by="id")
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


def find_splits(root: Path) -> list[str]:
    """Return the sorted splits of `root` that have a JSON and images.

    Raises:
        DataError: There are none.
    """
    named = {path.stem.removeprefix("instances_") for path in (root / "annotations").glob("instances_*.json")}
    exported = {path.parent.name for path in root.glob(f"*/{_EXPORT}")}
    splits = sorted({split for split in named if find_images(root, split)} | exported)
    if not splits:
        raise DataError(
            f"{root} has no annotations/instances_<split>.json with images in images/<split>/ or <split>/, and no "
            f"<split>/{_EXPORT}; check --root"
        )
    return splits


def find_parts(root: Path, split: str) -> tuple[Path, Path]:
    """Return the JSON of a split and the folder of its images.

    Raises:
        DataError: One of them is missing.
    """
    check_split_name(split)
    annotation, folder = root / "annotations" / f"instances_{split}.json", find_images(root, split)
    exported = root / split / _EXPORT
    if annotation.is_file() and folder is not None:
        return annotation, folder
    if exported.is_file():
        return exported, exported.parent
    raise DataError(
        f"no split {split!r} in {root}: looked for {annotation} with images in images/{split}/ or {split}/, and for "
        f"{exported}; available splits: {', '.join(find_splits(root))}"
    )


@dataclass
class _Content:
    """The content of a JSON: rows of images and categories, and annotation lines (see `_Rows`) with their image ids.

    Images and annotations are stored on disk, because there may be millions.
    """

    path: Path
    images: DiskList[dict[str, Any]] = field(default_factory=lambda: DiskList(key=itemgetter("id")))
    categories: list[dict[str, Any]] = field(default_factory=list)
    annotations: DiskList[tuple[int | str, bytes]] = field(default_factory=lambda: DiskList(key=itemgetter(0)))

    def images_with_annotations(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Yield each image with the lines of its annotations, which may be anywhere in the file.

        Raises:
            DataError: An annotation belongs to no image. Raised at the end.
        """
        found = 0
        for number, row in enumerate(self.images):
            is_first = self.images.first(row["id"]) == number  # a repeated id is rejected later
            lines = [self.annotations[index][1] for index in self.annotations.positions(row["id"])] if is_first else []
            found += len(lines)
            yield row, b"".join(lines)
        if found < len(self.annotations):
            lost = next(image_id for image_id, _ in self.annotations if self.images.first(image_id) is None)
            raise DataError(f"{self.path} annotates image {short(lost)}, which is not in `images`; add a row for it")


def _read_json(path: Path) -> _Content:
    """Read a JSON, checking what is needed to match its rows."""
    content = _Content(path)
    for key, items in read_members(path, "instances JSON"):
        if key == "images":
            keys = ("id", "file_name", "height", "width")
            for row in _with_keys(items, keys[:2], f"{path}, images"):
                if not isinstance(row["file_name"], str):
                    raise DataError(
                        f"{path}: the file_name of image {short(row['id'])} is {short(row['file_name'])}; expected text"
                    )
                content.images.append({key: row.get(key) for key in keys})
        elif key == "categories":
            content.categories.extend(_with_keys(items, ("id", "name"), f"{path}, categories"))
        elif key == "annotations":
            for row in _with_keys(items, ("image_id", "category_id", "segmentation"), f"{path}, annotations"):
                kept = [row.get("id"), row["category_id"], row.get("iscrowd", 0), row["segmentation"]]
                line = json.dumps(kept, separators=(",", ":")).encode() + b"\n"
                content.annotations.append((row["image_id"], line))
    return content


def _categories(path: Path) -> list[dict[str, Any]]:
    for key, items in read_members(path, "instances JSON"):
        if key == "categories":
            return list(_with_keys(items, ("id", "name"), f"{path}, categories"))
    raise DataError(f"{path} has no `categories`; expected COCO detection format: images, annotations, categories")


def _with_keys(items: Any, keys: Sequence[str], where: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a list, checking that each is an object with these keys and valid ids."""
    if not isinstance(items, Iterator):
        raise DataError(f"{where} is {short(items)}; expected a list")
    for number, row in enumerate(items):
        missing = [key for key in keys if key not in row] if isinstance(row, Mapping) else keys
        if missing:
            raise DataError(f"{where}[{number}] is {short(row)}; expected an object with {', '.join(keys)}")
        for key in ("id", "image_id"):
            if key in keys and (not isinstance(row[key], int | str) or isinstance(row[key], bool)):
                raise DataError(f"{where}[{number}]: the {key} is {short(row[key])}; expected a number")
        yield row
