"""`prepare-data masks`: convert one PNG per object, or one PNG per image with the class of each pixel."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import IdMap, PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.labeled_shapes import with_stuff
from panformer_cli.prepare.classes import TEXT, read_classes
from panformer_cli.prepare.left_out import UNKNOWN_CLASS, AnnotationError, AnnotationLog
from panformer_cli.prepare.masks.label_folders import ImageFile, find_splits, image_files, label_png, split_folder
from panformer_cli.prepare.overlap import Layer, OverlapRule, panoptic_of_layers
from panformer_cli.prepare.pixel_values import distinct_values, pack, pixels_of, read_colors, read_mask, read_values
from panformer_cli.prepare.source import LabeledMap, SourceImage, listed_files, listed_pngs, with_unused_labels
from panformer_cli.storage.files import name_inside
from panformer_cli.wording import listing, short

_COUNTED = re.compile(r"[-_ ]?[0-9]+$")
"""Number at the end of a mask's name: car_2.png, car-2.png, car2.png."""
_BLACK, _VOID_IDS = frozenset({0}), frozenset({0, 255})
"""Colors and class ids that are void unless a class uses them."""

_NOTHING = -1
"""Marks pixels without a class in a map of class ids."""


@dataclass(frozen=True)
class MaskFolder:
    """A folder of masks; open one with `open_mask_folder`. The `extra` of an image is the folder of its objects.

    Attributes:
        overlap: Which mask keeps shared pixels.
        has_ids: Whether the class file has ids, which maps of class ids need.
    """

    root: Path
    categories: CategoryTable
    overlap: OverlapRule
    has_ids: bool = True
    own_files: tuple[Path, ...] = ()
    name: str = "masks"

    @property
    def settings(self) -> dict[str, Any]:
        return {"overlap": self.overlap}

    def splits(self) -> Sequence[str]:
        return find_splits(self.root)

    def images(self, split: str) -> Iterator[SourceImage]:
        masks = split_folder(self.root, "masks", split)
        images = (
            SourceImage(number, image_file.path, image_file.name, *_labels(masks, image_file))
            for number, image_file in enumerate(image_files(self.root, split), 1)
        )
        return with_unused_labels(images, listed_pngs(masks), split_folder(self.root, "images", split))

    def read(self, image: SourceImage, size: tuple[int, int], log: AnnotationLog) -> PanopticMap:
        """Return the annotation; that of a map of classes also counts the class values that are void."""
        if image.extra is not None:
            layers = []
            for path in image.labels:
                with log.annotation():
                    layers.append(_layer(path, image.extra, self.categories, size))
            return panoptic_of_layers(layers, size, self.categories, self.overlap, str(image.path), log)
        if not self.has_ids:
            raise DataError(
                f"{image.labels[0]} is a map of class ids, but the class file lists only names; pass a CSV or YAML "
                "file with the id of each class"
            )
        classes, void_values = _class_map(image.labels[0], self.categories, size)
        panoptic = panoptic_of_classes(classes, self.categories)
        return LabeledMap(panoptic.ids, panoptic.segments, void_values)


def open_mask_folder(
    root: Path,
    classes: Path,
    overlap: OverlapRule = "last",
    stuff: Sequence[str] = (),
    encoding: str | None = None,
) -> MaskFolder:
    """Return the source in the folder `root`.

    Args:
        root: The folder of the data set.
        classes: A class file for `read_classes`.
        overlap: Which mask keeps shared pixels.
        stuff: Names of classes to treat as stuff.
        encoding: Encoding of a class file that is not UTF-8.

    Raises:
        DataError: The class file cannot be used, lists colors for only some classes, or repeats a color.
    """
    table = with_stuff(read_classes(classes, encoding=encoding), stuff)
    colors = [category.color for category in table.categories if category.color is not None]
    if len(colors) not in (0, len(table)) or len(set(colors)) < len(colors):
        problem = "two classes of one color" if len(set(colors)) < len(colors) else "classes with and without a color"
        raise DataError(f"{classes} has {problem}; expected a unique color for each class, or no colors at all")
    return MaskFolder(root, table, overlap, classes.suffix.lower() != TEXT, (classes,))


def _labels(masks: Path, image_file: ImageFile) -> tuple[tuple[Path, ...], Path | None]:
    """Return the label files of an image and the folder of its objects. Missing files are reported when read."""
    folder = name_inside(masks, image_file.stem, str(image_file.path))
    class_map = label_png(masks, image_file)
    if not folder.is_dir():
        return (class_map,), None
    if class_map.exists():
        raise DataError(f"{image_file.path} has both {folder}/ and {class_map}; expected one of them")
    # A mask in another format is an error when it is read, not a mask less.
    masks_of_objects = {
        path if path.suffix.lower() == ".png" else path.with_suffix(".png") for path in listed_files(folder)
    }
    return tuple(sorted(masks_of_objects, key=lambda path: _natural(path.relative_to(folder)))), folder


def _natural(path: Path) -> list[tuple[str, int]]:
    """Return a key that sorts car_2 before car_10."""
    pieces = re.findall("([^0-9]*)([0-9]*)", path.with_suffix("").as_posix())
    return [(text, int(digits or 0)) for text, digits in pieces]


def _layer(path: Path, folder: Path, categories: CategoryTable, size: tuple[int, int]) -> Layer:
    """Return the cropped object of a mask."""
    category = _category(path, folder, categories)
    mask = read_mask(path, size)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom = (int(rows[0]), int(rows[-1]) + 1) if rows.size else (0, 0)
    left, right = (int(columns[0]), int(columns[-1]) + 1) if columns.size else (0, 0)
    name = f"mask {path.relative_to(folder).as_posix()}"
    return Layer(category.id, mask[top:bottom, left:right].copy(), name, top, left)


def _category(path: Path, folder: Path, categories: CategoryTable) -> Category:
    """Return the category named by a mask's subfolder, or else by its file name with or without a final number."""
    inner = path.relative_to(folder)
    names = [inner.parts[0]] if len(inner.parts) > 1 else [path.stem, _COUNTED.sub("", path.stem)]
    by_name = {category.name: category for category in categories.categories}
    for name in names:
        if name in by_name:
            return by_name[name]
    raise AnnotationError(
        f"{path}: no class is named {names[-1]!r}; expected a class name ({_some_names(by_name)}), optionally followed "
        "by a number, or a folder of that name",
        UNKNOWN_CLASS,
    )


def _some_names(names: Iterable[str]) -> str:
    return short(", ".join(names))[1:-1]


def _class_map(path: Path, categories: CategoryTable, size: tuple[int, int]) -> tuple[IdMap, dict[str, int]]:
    """Return the class id of each pixel (H, W), or `_NOTHING`, and the number of pixels of each void value.

    Classes are matched by color if the class file has colors, else by the values of the PNG.
    """
    has_colors = categories.categories[0].color is not None
    if has_colors:
        values, void = pack(read_colors(path, size).astype(np.int32)), _BLACK
        id_of = {int(pack(np.array(row.color, np.int32))): row.id for row in categories.categories}
    else:
        values, void = read_values(path, size), _VOID_IDS
        id_of = {category.id: category.id for category in categories.categories}
    found, index_of_pixel = distinct_values(values)
    unknown = [value for value in found if value not in id_of and value not in void]
    if unknown and has_colors:
        colors = listing(f"#{value:06x}" for value in unknown)
        raise DataError(
            f"{path} contains {len(unknown)} colors that are not in the class file: {colors}; expected its colors, and "
            "black for void (if the PNG's values are class ids, leave colors out of the class file)"
        )
    if unknown:
        raise DataError(
            f"{path} contains the class ids {listing(sorted(unknown))}, which are not in the class file; add them"
        )
    ids: IdMap = np.array([id_of.get(value, _NOTHING) for value in found], np.int32)[index_of_pixel]
    pixels = zip(found, pixels_of(index_of_pixel, len(found)), strict=True)
    name = "#{:06x}" if has_colors else "{}"
    return ids, {name.format(value): count for value, count in pixels if value not in id_of}


def panoptic_of_classes(classes: IdMap, categories: CategoryTable) -> PanopticMap:
    """Return the panoptic map of a class map, (H, W) int32. Ids that are not in the table are void.

    All stuff of a class is one segment. Each 8-connected region of a thing class is one segment, because the class map
    does not separate objects.
    """
    ids: IdMap = np.zeros(classes.shape, np.int32)
    category_of_id: dict[int, int] = {}
    present = set(np.unique(classes).tolist())
    for category in categories.categories:
        if category.id not in present:
            continue
        mask = classes == category.id
        regions = mask.astype(np.int32)
        if category.is_thing:
            regions = np.asarray(cv2.connectedComponents(mask.view(np.uint8), connectivity=8)[1], np.int32)
        first = len(category_of_id) + 1
        ids[mask] = regions[mask] + (first - 1)
        category_of_id |= dict.fromkeys(range(first, first + int(regions.max())), category.id)
    return PanopticMap(ids, segments_of(ids, category_of_id))
