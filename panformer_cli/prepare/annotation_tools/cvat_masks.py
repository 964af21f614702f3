"""`prepare-data cvat`: convert CVAT's export `Segmentation mask 1.1`: Pascal VOC's folders with colored PNGs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.images import read_bytes
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.labeled_shapes import with_stuff
from panformer_cli.prepare.classes import read_classes
from panformer_cli.prepare.left_out import AnnotationLog
from panformer_cli.prepare.masks.label_folders import SINGLE_SPLIT
from panformer_cli.prepare.masks.png_pairs import panoptic_of_pairs
from panformer_cli.prepare.pixel_values import distinct_values, pack, read_colors
from panformer_cli.prepare.source import SourceImage, listed_files, listed_pngs, with_unused_labels
from panformer_cli.storage.files import name_inside
from panformer_cli.storage.text_files import decode_text
from panformer_cli.wording import listing, short

LABEL_MAP = "labelmap.txt"
"""The names and colors of the classes."""

IMAGES, FOLDERS = "JPEGImages", ("SegmentationClass", "SegmentationObject")

_LISTS = "ImageSets/Segmentation"
"""Folder of the lists of images, one for each subset."""

_LINE = re.compile(r"(.+?):([0-9]+), ?([0-9]+), ?([0-9]+)(:.*)?")
_VOID_COLORS = (0x000000, 0xE0E0C0)
"""The background, and the borders of objects in Pascal VOC, unless they are the color of a class."""


@dataclass(frozen=True)
class CvatMasks:
    """A folder with masks in colors; open one with `open_cvat_masks`.

    Attributes:
        id_of_color: Category id of each color, 0xRRGGBB; 0 is void.
    """

    root: Path
    categories: CategoryTable
    id_of_color: Mapping[int, int]
    own_files: tuple[Path, ...]
    name: str = "cvat"

    @property
    def settings(self) -> dict[str, Any]:
        return {"colors": {f"#{color:06x}": number for color, number in self.id_of_color.items()}}

    def splits(self) -> Sequence[str]:
        names = sorted(path.stem for path in (self.root / _LISTS).glob("*.txt"))
        return [SINGLE_SPLIT if name == "default" and SINGLE_SPLIT not in names else name for name in names] or [
            SINGLE_SPLIT
        ]

    def images(self, split: str) -> Iterator[SourceImage]:
        if split not in self.splits():
            raise DataError(f"{self.root} has no split {split}; expected {listing(self.splits(), separator=' or ')}")
        folder, listed = self.root / IMAGES, self._listed(split)
        found = (path for path in listed_files(folder) if listed is None or _stem(path, folder) in listed)
        images = (
            SourceImage(number, path, path.relative_to(folder).as_posix(), self._labels(_stem(path, folder), path))
            for number, path in enumerate(found, 1)
        )
        labels = chain.from_iterable(listed_pngs(self.root / name) for name in FOLDERS)
        return with_unused_labels(images, labels if listed is None else (), folder)

    def read(self, image: SourceImage, size: tuple[int, int], log: AnnotationLog) -> PanopticMap:
        del log
        path = image.labels[0]
        colors, index = distinct_values(pack(read_colors(path, size).astype(np.int32)))
        unknown = [f"#{color:06x}" for color in colors if color not in self.id_of_color]
        if unknown:
            raise DataError(
                f"{path} has the colors {listing(unknown)}, which {LABEL_MAP} does not list; add their classes"
            )
        classes = np.array([self.id_of_color[color] for color in colors], np.int32)[index]
        _, instances = distinct_values(pack(read_colors(image.labels[1], size).astype(np.int32)))
        void = frozenset({0})
        found = panoptic_of_pairs(classes, instances.astype(np.int32), self.categories, void, path, "none")
        return PanopticMap(found.ids, found.segments)  # without void values: the background is no class value

    def _labels(self, stem: str, image: Path) -> tuple[Path, ...]:
        return tuple(name_inside(self.root / name, f"{stem}.png", str(image)) for name in FOLDERS)

    def _listed(self, split: str) -> frozenset[str] | None:
        """Return the names of the images of a split, without suffixes; None if there are no lists."""
        paths = (self.root / _LISTS / f"{name}.txt" for name in (split, "default"))
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            return None
        lines = decode_text(read_bytes(path, "list of images"), path).splitlines()
        return frozenset(line.strip().strip('"') for line in lines)  # names with spaces are in quotes


def open_cvat_masks(root: Path, classes: Path | None, stuff: Sequence[str], encoding: str | None = None) -> CvatMasks:
    """Return the source in the folder `root`.

    Args:
        root: The folder with `labelmap.txt`.
        classes: A file for `read_classes`. None takes the classes of `labelmap.txt` as things, numbered from 1.
        stuff: Names of the classes that are stuff.
        encoding: Encoding of `labelmap.txt` or a class file that is not UTF-8.

    Raises:
        DataError: A folder is missing, `labelmap.txt` or the class file cannot be used, or a name is unknown.
    """
    missing = [name for name in (IMAGES, *FOLDERS) if not (root / name).is_dir()]
    if missing:
        raise DataError(
            f"{root} has {LABEL_MAP} but not {listing(missing)}; expected an unpacked export `Segmentation mask 1.1` "
            f"with {IMAGES}, {' and '.join(FOLDERS)}; export it from CVAT with `Save images`"
        )
    path = root / LABEL_MAP
    color_of = _colors(path, encoding)
    rows = enumerate(color_of.items(), 1)
    table = (
        read_classes(classes, encoding=encoding)
        if classes
        else CategoryTable(Category(n, name, True, (c >> 16, c >> 8 & 255, c & 255)) for n, (name, c) in rows)
    )
    id_of_name = {category.name: category.id for category in table.categories}
    unknown = [name for name in color_of if name not in id_of_name]
    if unknown:
        raise DataError(f"{path} has the class {short(unknown[0])}, which is not in {classes}; add it")
    if 0 in id_of_name.values():
        raise DataError(f"{classes} has a class with id 0; expected ids of 1 or more, because 0 is void in these masks")
    ids = dict.fromkeys(_VOID_COLORS, 0) | {color: id_of_name[name] for name, color in color_of.items()}
    return CvatMasks(root, with_stuff(table, stuff), ids, (path, *((classes,) if classes else ())))


def _colors(path: Path, encoding: str | None) -> dict[str, int]:
    """Return the color, 0xRRGGBB, of each class but the background, in the order of the file."""
    color_of: dict[str, int] = {}
    lines = decode_text(read_bytes(path, "label map"), path, encoding).splitlines()
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        color = [int(part) for part in match.group(2, 3, 4)] if match else []
        if match is None or max(color) > 255:
            raise DataError(f"{path}, line {number} is {short(line)}; expected name:red,green,blue:parts:actions")
        name, packed = match[1].strip(), int(pack(np.array(color, np.int32)))
        if name in color_of or packed in color_of.values():
            raise DataError(f"{path}, line {number}: {short(line)} repeats a name or a color; expected unique ones")
        if packed or name != "background":
            color_of[name] = packed
    if not color_of:
        raise DataError(f"{path} lists no class besides the background; export the task from CVAT again")
    return color_of


def _stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()
