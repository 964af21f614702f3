"""`prepare-data coco-instances`: things out of a COCO detection JSON, and stuff, where there is any, out of PNGs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.json_stream import read_members
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.disk_list import DiskList
from panformer_cli.data.layout import check_split_name, find_images
from panformer_cli.data.structures import IdMap, PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.classes import read_classes
from panformer_cli.prepare.masks.coco_masks import mask_of_segmentation
from panformer_cli.prepare.overlap import Layer, OverlapRule, panoptic_of_layers
from panformer_cli.prepare.pixel_values import distinct_values, read_values
from panformer_cli.prepare.source import SourceImage
from panformer_cli.storage.files import name_inside, resolve_links
from panformer_cli.wording import listing, short

_EXPORT = "_annotations.coco.json"
"""Beside the images of a split, as Roboflow exports it."""
_VOID_IDS = frozenset({0, 255})
"""Values of the stuff PNGs that are void unless a class has them as its id."""


class _Rows(NamedTuple):
    """Of an image: height and width as the JSON says (None where it does not), and its annotations as text, a JSON
    list `[id, category_id, iscrowd, segmentation]` a line.
    """

    size: tuple[Any, Any]
    text: bytes


@dataclass(frozen=True)
class CocoInstances:
    """The source; `open_coco_instances` makes one. `extra` of its images are their `_Rows`.

    stuff_masks: the folder of the stuff PNGs, if any.
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
        odd = [row for row in content.categories if names.get(row["id"]) != str(row["name"])]
        if odd:
            raise DataError(
                f"{annotation} has the category {short(odd[0])}, which the other splits have not; expected equal tables"
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
                f"{annotation} says that {image.file_name} is {rows.size[1]}x{rows.size[0]} but it is shown as "
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
                f"{where}: the category_id is {short(category_id)}, which `categories` lacks; add it, or correct the id"
            )
        if is_crowd not in (0, 1):
            raise DataError(f"{where}: iscrowd is {short(is_crowd)}; expected 0 or 1")
        mask, top, left = mask_of_segmentation(segmentation, size, where)
        category = self.categories.by_id(category_id)
        name = f"annotation {short(number)} ({category.name})"
        return Layer(category_id, mask, name, top, left, bool(is_crowd) and category.is_thing)


def _image(row: Mapping[str, Any], text: bytes, annotation: Path, folder: Path, masks: Path | None) -> SourceImage:
    """text: of its `_Rows`; masks: the folder of the stuff PNGs."""
    name = row["file_name"].replace("\\", "/")
    picture = name_inside(folder, name, str(annotation))
    labels = [annotation]
    if masks is not None:
        labels.append(name_inside(masks, str(PurePosixPath(name).with_suffix(".png")), str(annotation)))
    rows = _Rows((row["height"], row["width"]), text)
    return SourceImage(row["id"], picture, name, tuple(labels), rows)


def open_coco_instances(
    root: Path,
    splits: Sequence[str] = (),
    overlap: OverlapRule = "last",
    classes: Path | None = None,
    stuff_masks: Path | None = None,
) -> CocoInstances:
    """The source in the folder `root`.

    splits: those that will be read; the categories of the first count for all. Without any, all that are there.
    classes: a class file that says which categories are stuff, and has those of the stuff PNGs; it goes before the
        JSON, in which all are things.
    stuff_masks: folder of PNGs `[<split>/]<image name>.png` with the id of a stuff class for every pixel.

    Raises:
        DataError: a JSON or the class file cannot be used, or they disagree.
    """
    if stuff_masks is not None and classes is None:
        raise DataError(f"--stuff-masks {stuff_masks} needs --classes FILE with the names of its classes")
    if stuff_masks is not None and not stuff_masks.is_dir():
        raise DataError(f"the folder of stuff masks {stuff_masks} does not exist; check the path")
    annotation, _ = find_parts(root, next(iter(splits), "") or find_splits(root)[0])
    rows = [{"id": row["id"], "name": row["name"], "isthing": 1} for row in _categories(annotation)]
    table = CategoryTable.from_coco(rows, str(annotation))
    return CocoInstances(root, _named_by(table, classes, annotation) if classes else table, overlap, stuff_masks)


def _named_by(table: CategoryTable, classes: Path, annotation: Path) -> CategoryTable:
    """Categories of a JSON, and those of a class file, which go first."""
    named = read_classes(classes)
    for category in table.categories:
        if category.id in named and named.by_id(category.id).name != category.name:
            raise DataError(
                f"{classes} calls the id {category.id} {named.by_id(category.id).name!r} but {annotation} calls it "
                f"{category.name!r}; expected one name for an id"
            )
    return CategoryTable([*named.categories, *(c for c in table.categories if c.id not in named)])


def with_stuff(things: PanopticMap, layers: int, classes: IdMap, table: CategoryTable, where: Path) -> PanopticMap:
    """Lay stuff under the segments that are there: a class for every pixel that none of them has.

    layers: ids up to this number are taken.
    classes: (H, W) int32 class ids. Those of things are void: which object such a pixel is of is not known.
    where: the file of `classes`, for DataError where it holds an id that the table lacks.
    """
    found, place = distinct_values(classes)
    unknown = [number for number in found if number not in table and number not in _VOID_IDS]
    if unknown:
        raise DataError(
            f"{where} holds the class ids {listing(sorted(unknown))}, which are not in the class file; add them there"
        )
    segments = {s.id: s.category_id for s in things.segments}
    id_of_class = {s.category_id: s.id for s in things.segments if not s.is_crowd}
    segment_of_class = np.zeros(len(found), np.int32)
    for index, number in enumerate(found):
        if number in table and not table.by_id(number).is_thing:
            segment_of_class[index] = id_of_class.get(number, layers + 1 + index)
            segments[int(segment_of_class[index])] = number
    ids = np.where(things.ids == 0, segment_of_class[place], things.ids)
    crowds = {segment.id for segment in things.segments if segment.is_crowd}
    return PanopticMap(ids, segments_of(ids, segments, crowds))


def find_splits(root: Path) -> list[str]:
    """Splits of `root` that have a JSON and images, sorted.

    Raises:
        DataError: there is none.
    """
    named = {path.stem.removeprefix("instances_") for path in (root / "annotations").glob("instances_*.json")}
    exported = {path.parent.name for path in root.glob(f"*/{_EXPORT}")}
    splits = sorted({split for split in named if find_images(root, split)} | exported)
    if not splits:
        raise DataError(
            f"{root} holds no annotations/instances_<split>.json with images in images/<split>/ or <split>/, and no "
            f"<split>/{_EXPORT}; check --root"
        )
    return splits


def find_parts(root: Path, split: str) -> tuple[Path, Path]:
    """The JSON of a split and the folder of its images.

    Raises:
        DataError: one of them is missing.
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
        f"{exported}; splits there: {', '.join(find_splits(root))}"
    )


@dataclass
class _Content:
    """A JSON read: its rows of images and categories, and its annotations with the image of each, as `_Rows` has them.

    What there may be millions of is not in memory.
    """

    path: Path
    images: DiskList[dict[str, Any]] = field(default_factory=lambda: DiskList(key=itemgetter("id")))
    categories: list[dict[str, Any]] = field(default_factory=list)
    annotations: DiskList[tuple[int | str, bytes]] = field(default_factory=lambda: DiskList(key=itemgetter(0)))

    def images_with_annotations(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Each image with the lines of its annotations, which may stand anywhere in the file.

        Raises:
            DataError: at the end, where an annotation is of no image.
        """
        found = 0
        for number, row in enumerate(self.images):
            is_first = self.images.first(row["id"]) == number  # a repeated id is refused later
            lines = [self.annotations[place][1] for place in self.annotations.positions(row["id"])] if is_first else []
            found += len(lines)
            yield row, b"".join(lines)
        if found < len(self.annotations):
            lost = next(image_id for image_id, _ in self.annotations if self.images.first(image_id) is None)
            raise DataError(f"{self.path} annotates image {short(lost)}, which `images` lacks; expected a row for it")


def _read_json(path: Path) -> _Content:
    """All of a JSON, checked as far as rows must be brought together."""
    content = _Content(path)
    for key, items in read_members(path, "instances JSON"):
        if key == "images":
            wanted = ("id", "file_name", "height", "width")
            for row in _with_keys(items, wanted[:2], f"{path}, images"):
                if not isinstance(row["file_name"], str):
                    raise DataError(
                        f"{path}: the file_name of image {short(row['id'])} is {short(row['file_name'])}; expected text"
                    )
                content.images.append({key: row.get(key) for key in wanted})
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
    raise DataError(f"{path} has no `categories`; expected COCO's detection form: images, annotations, categories")


def _with_keys(items: Any, keys: Sequence[str], where: str) -> Iterator[dict[str, Any]]:
    """The rows of a list, each an object that has the keys, and ids that can be one."""
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
