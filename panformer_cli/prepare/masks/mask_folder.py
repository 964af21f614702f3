"""`prepare-data masks`: a PNG for each object, or one PNG for an image that shows the class of every pixel."""

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
from panformer_cli.prepare.classes import read_classes
from panformer_cli.prepare.masks.label_folders import Picture, find_splits, pictures, split_folder
from panformer_cli.prepare.overlap import Layer, OverlapRule, panoptic_of_layers
from panformer_cli.prepare.pixel_values import distinct_values, pack, read_colors, read_mask, read_values
from panformer_cli.prepare.source import SourceImage, listed_pngs, with_unused_labels
from panformer_cli.storage.files import name_inside
from panformer_cli.wording import listing, short

_COUNTED = re.compile(r"[-_ ]?[0-9]+$")
"""What tells several masks of one class apart: car_2.png, car-2.png, car2.png."""
_BLACK, _VOID_IDS = frozenset({0}), frozenset({0, 255})
"""Values that are void unless a class has them: of colours, and of class ids."""

_NOTHING = -1
"""No class, in a map of class ids."""


@dataclass(frozen=True)
class MaskFolder:
    """The source; `open_mask_folder` makes one. `extra` of its images is the folder of their objects, if any."""

    root: Path
    categories: CategoryTable
    overlap: OverlapRule
    name: str = "masks"

    @property
    def settings(self) -> dict[str, Any]:
        return {"overlap": self.overlap}

    def splits(self) -> Sequence[str]:
        return find_splits(self.root)

    def images(self, split: str) -> Iterator[SourceImage]:
        masks = split_folder(self.root, "masks", split)
        images = (
            SourceImage(number, picture.path, picture.name, *_labels(masks, picture))
            for number, picture in enumerate(pictures(self.root, split), 1)
        )
        return with_unused_labels(images, listed_pngs(masks), split_folder(self.root, "images", split))

    def read(self, image: SourceImage, size: tuple[int, int]) -> PanopticMap:
        if image.extra is not None:
            layers = [_layer(path, image.extra, self.categories, size) for path in image.labels]
            return panoptic_of_layers(layers, size, self.categories, self.overlap, str(image.picture))
        return panoptic_of_classes(_class_map(image.labels[0], self.categories, size), self.categories)


def open_mask_folder(root: Path, classes: Path, overlap: OverlapRule = "last") -> MaskFolder:
    """The source in the folder `root`.

    classes: the class file, as `read_classes` takes it.

    Raises:
        DataError: the class file cannot be used, or gives a color to some classes only or one color twice.
    """
    table = read_classes(classes)
    colors = [category.color for category in table.categories if category.color is not None]
    if len(colors) not in (0, len(table)) or len(set(colors)) < len(colors):
        problem = "two classes of one color" if len(set(colors)) < len(colors) else "classes with and without a color"
        raise DataError(f"{classes} has {problem}; expected a color of its own for every class, or none at all")
    return MaskFolder(root, table, overlap)


def _labels(masks: Path, picture: Picture) -> tuple[tuple[Path, ...], Path | None]:
    """The label files of a picture, and the folder of its objects. A file that is missing is told when it is read."""
    folder = name_inside(masks, picture.stem, str(picture.path))
    whole = name_inside(masks, f"{picture.stem}.png", str(picture.path))
    if not folder.is_dir():
        return (whole,), None
    if whole.exists():
        raise DataError(f"{picture.path} has both {folder}/ and {whole}; expected one of them")
    return tuple(sorted(listed_pngs(folder), key=lambda path: _natural(path.relative_to(folder)))), folder


def _natural(path: Path) -> list[tuple[str, int]]:
    """For sorting car_2 before car_10."""
    pieces = re.findall("([^0-9]*)([0-9]*)", path.with_suffix("").as_posix())
    return [(text, int(digits or 0)) for text, digits in pieces]


def _layer(path: Path, folder: Path, categories: CategoryTable, size: tuple[int, int]) -> Layer:
    """The object of a mask, cut out."""
    category = _category(path, folder, categories)
    mask = read_mask(path, size)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom = (int(rows[0]), int(rows[-1]) + 1) if rows.size else (0, 0)
    left, right = (int(columns[0]), int(columns[-1]) + 1) if columns.size else (0, 0)
    name = f"mask {path.relative_to(folder).as_posix()}"
    return Layer(category.id, mask[top:bottom, left:right].copy(), name, top, left)


def _category(path: Path, folder: Path, categories: CategoryTable) -> Category:
    """After the sub-folder that a mask lies in, else after its own name, with or without a number at the end."""
    inner = path.relative_to(folder)
    names = [inner.parts[0]] if len(inner.parts) > 1 else [path.stem, _COUNTED.sub("", path.stem)]
    by_name = {category.name: category for category in categories.categories}
    for name in names:
        if name in by_name:
            return by_name[name]
    raise DataError(
        f"{path}: no class is called {names[-1]!r}; expected the name of a class ({_some_names(by_name)}), "
        "then a number if there are several, or a folder of that name"
    )


def _some_names(names: Iterable[str]) -> str:
    return short(", ".join(names))[1:-1]


def _class_map(path: Path, categories: CategoryTable, size: tuple[int, int]) -> IdMap:
    """The class id of every pixel (H, W), `_NOTHING` where it has none.

    Where the class file gives colours they count, else the values of the PNG.
    """
    if categories.categories[0].color is not None:
        values, void = pack(read_colors(path, size).astype(np.int32)), _BLACK
        id_of = {int(pack(np.array(row.color, np.int32))): row.id for row in categories.categories}
    else:
        values, void = read_values(path, size), _VOID_IDS
        id_of = {category.id: category.id for category in categories.categories}
    found, place = distinct_values(values)
    unknown = [value for value in found if value not in id_of and value not in void]
    if unknown and categories.categories[0].color is not None:
        colors = listing(f"#{value:06x}" for value in unknown)
        raise DataError(
            f"{path} holds {len(unknown)} colors that are no class: {colors}; expected those of the class file, "
            "and black for void (a class file without colors goes by the values of the PNG)"
        )
    if unknown:
        raise DataError(
            f"{path} holds the class ids {listing(sorted(unknown))}, which are not in the class file; add them there"
        )
    ids: IdMap = np.array([id_of.get(value, _NOTHING) for value in found], np.int32)[place]
    return ids


def panoptic_of_classes(classes: IdMap, categories: CategoryTable) -> PanopticMap:
    """The panoptic map of a class id for every pixel, (H, W) int32; ids that the table lacks are void.

    All stuff of a class is one segment. Of a thing class each connected region is one, pixels that touch at a
    corner being connected: nothing else tells objects apart.
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
