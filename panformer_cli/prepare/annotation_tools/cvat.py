"""`prepare-data cvat`: convert an unpacked `CVAT for images 1.1` export."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.disk_list import DiskList
from panformer_cli.data.images import IMAGE_SUFFIXES
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools import shapes
from panformer_cli.prepare.annotation_tools.cvat_xml import (
    Attributes,
    XmlImage,
    XmlLabel,
    XmlShape,
    read_images,
    read_labels,
)
from panformer_cli.prepare.annotation_tools.labeled_shapes import (
    VOID_LABELS,
    LabeledShape,
    check_size,
    panoptic_of_shapes,
    with_stuff,
)
from panformer_cli.prepare.annotation_tools.shapes import Box, Patch, Points, Size
from panformer_cli.prepare.classes import read_classes
from panformer_cli.prepare.left_out import AnnotationError, AnnotationLog, NoAreaError
from panformer_cli.prepare.overlap import OverlapRule
from panformer_cli.prepare.source import SourceImage
from panformer_cli.storage.files import name_inside
from panformer_cli.wording import short

ANNOTATION = "annotations.xml"

_WITHOUT_AREA = frozenset({"polyline", "points", "skeleton"})
"""Shapes that are left out."""

_TAG = "tag"
"""A child of an image that is not a shape but a label of the whole image."""


@dataclass(frozen=True)
class Cvat:
    """A folder with `annotations.xml` and its images; open one with `open_cvat`.

    The splits are the subsets of a project. Images without a subset, such as those of a task, form the split `train`.
    """

    root: Path
    categories: CategoryTable
    overlap: OverlapRule = "last"
    name: str = "cvat"

    @property
    def settings(self) -> dict[str, Any]:
        return {"overlap": self.overlap}

    def splits(self) -> Sequence[str]:
        found = sorted({_split_of(image) for image in self._rows()})
        if not found:
            raise DataError(f"{self.root / ANNOTATION} lists no images; expected at least one; export it again")
        return found

    def images(self, split: str) -> Iterator[SourceImage]:
        rows = DiskList(image for image in self._rows() if _split_of(image) == split)
        if not rows:
            raise DataError(f"{self.root} has no split {split}; expected one of {', '.join(self.splits())}")
        ids = [row.attributes.get("id", "") for row in rows]
        # In a project, each task may number its images from 0.
        if len(set(ids)) < len(ids) or not all(re.fullmatch("[0-9]{1,15}", id_) for id_ in ids):
            ids = [str(number) for number in range(1, len(rows) + 1)]
        return (self._image(int(id_), row, split) for id_, row in zip(ids, rows, strict=True))

    def _rows(self) -> Iterator[XmlImage]:
        return read_images(self.root / ANNOTATION)

    def _image(self, number: int, row: XmlImage, split: str) -> SourceImage:
        labels = self.root / ANNOTATION
        name = row.attributes.get("name", "").replace("\\", "/")
        folders = [self.root / "images" / split, self.root / "images", self.root / split, self.root]
        candidates = [(folder, name_inside(folder, name, str(labels))) for folder in folders]
        folder, path = next((candidate for candidate in candidates if candidate[1].is_file()), candidates[1])
        if not path.is_file() and path.suffix.lower() not in IMAGE_SUFFIXES:
            path = _frame(path)
        return SourceImage(number, path, path.relative_to(folder).as_posix(), (labels,), row)

    def read(self, image: SourceImage, size: tuple[int, int], log: AnnotationLog) -> PanopticMap:
        row: XmlImage = image.extra
        where = f"{image.labels[0]}: image {row.attributes['name']}"
        height, width = _whole(row.attributes, "height", where), _whole(row.attributes, "width", where)
        check_size((height, width), size, where)
        drawn = []
        for number, shape in enumerate(row.shapes, 1):
            if shape.kind != _TAG:
                with log.annotation():
                    z_order = _whole(shape.attributes, "z_order", where, 0)
                    drawn.append((z_order, _shape(shape, number, size, where)))
        bottom_up = [shape for _, shape in sorted(drawn, key=lambda pair: pair[0])]
        return panoptic_of_shapes(bottom_up, size, self.categories, self.overlap, where, log)


def open_cvat(root: Path, classes: Path | None, stuff: Sequence[str], overlap: OverlapRule) -> Cvat:
    """Return the source in the folder `root`.

    Args:
        root: The folder with `annotations.xml`.
        classes: A file for `read_classes`. None takes the labels of the task as things, in its order and with its
            colors, numbered from 1.
        stuff: Names of the classes that are stuff.
        overlap: Which shape keeps shared pixels.

    Raises:
        DataError: annotations.xml is missing, has another format or no labels, or a name is unknown.
    """
    if not root.is_dir():
        raise DataError(f"the folder {root} does not exist; check the path (docs/data.md shows the folder layout)")
    table = read_classes(classes) if classes else _table(root / ANNOTATION)
    return Cvat(root, with_stuff(table, stuff), overlap)


def _table(path: Path) -> CategoryTable:
    labels = {label.name: label for label in read_labels(path) if label.name not in VOID_LABELS}
    if not labels or "" in labels:
        raise DataError(
            f"{path} has {'a label without a name' if labels else 'no labels'} in its header; expected the name of "
            "every class; export the whole task, or list the classes with --classes FILE"
        )
    rows = enumerate(labels.values(), 1)
    return CategoryTable(Category(number, label.name, True, _color(label)) for number, label in rows)


def _color(label: XmlLabel) -> tuple[int, int, int] | None:
    if not re.fullmatch("#[0-9a-fA-F]{6}", label.color):
        return None
    red, green, blue = bytes.fromhex(label.color[1:])
    return red, green, blue


def _split_of(image: XmlImage) -> str:
    """Return the image's subset, or `train` for CVAT's unnamed default subset."""
    subset = image.attributes.get("subset", "")
    if subset in ("", "default"):
        return "train"
    if subset in (".", "..") or "/" in subset or "\\" in subset:
        raise DataError(f"the subset {short(subset)} is not a valid folder name; rename it in CVAT and export it again")
    return subset


def _frame(path: Path) -> Path:
    """Return the file of a video frame, which is listed without its extension."""
    found = (path.with_name(path.name + suffix) for suffix in (".PNG", ".png", ".jpg"))
    return next((path for path in found if path.is_file()), path)


def _shape(shape: XmlShape, number: int, size: Size, where: str) -> LabeledShape:
    label = shape.attributes.get("label", "")
    name = f"{shape.kind} {number} ({label})"
    group = shape.attributes.get("group_id", "0")
    return LabeledShape(label, _patch(shape, size, f"{where}: {name}"), name, None if group == "0" else group)


def _patch(shape: XmlShape, size: Size, where: str) -> Patch:
    values = shape.attributes
    if shape.kind == "polygon":
        return shapes.polygon(_points(values.get("points", ""), where), size, where)
    if shape.kind == "box":
        corners = np.array([_number(values, key, where) for key in ("xtl", "ytl", "xbr", "ybr")]).reshape(2, 2)
        return shapes.rectangle(corners, size, where, _number(values, "rotation", where, 0.0))
    if shape.kind == "ellipse":
        x, y, radius_x, radius_y = (_number(values, key, where) for key in ("cx", "cy", "rx", "ry"))
        rotation = _number(values, "rotation", where, 0.0)
        return shapes.ellipse((x, y), (radius_x, radius_y), size, where, rotation)
    if shape.kind == "mask":
        left, top, width, height = (_whole(values, key, where) for key in ("left", "top", "width", "height"))
        box = Box(top, left, top + height, left + width)
        return shapes.run_lengths(_counts(values.get("rle", ""), where), box, size, where)
    if shape.kind in _WITHOUT_AREA:
        raise NoAreaError(f"{where} has no area; to use it, draw its outline as a polygon")
    raise AnnotationError(
        f"{where} has no area; expected polygon, box, ellipse or mask; draw its outline as a polygon, or "
        "delete it in CVAT"
    )


def _points(text: str, where: str) -> Points:
    """`x,y;x,y;...`"""
    try:
        pairs = [[float(value) for value in pair.split(",")] for pair in text.split(";")]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError
    except ValueError as error:
        raise DataError(
            f"{where} has the points {short(text)}; expected x,y;x,y;... in pixels; export it again"
        ) from error
    return np.array(pairs)


def _counts(text: str, where: str) -> list[int]:
    try:
        return [int(count) for count in text.split(",")]
    except ValueError as error:
        raise DataError(
            f"{where} has the rle {short(text)}; expected comma-separated integers; export it again"
        ) from error


def _number(values: Attributes, key: str, where: str, default: float | None = None) -> float:
    try:
        return float(values[key]) if default is None else float(values.get(key, default))
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{where} has the {key} {short(values.get(key))}; expected a number; export it again"
        ) from error


def _whole(values: Attributes, key: str, where: str, default: int | None = None) -> int:
    try:
        return int(values[key]) if default is None else int(values.get(key, default))
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{where} has the {key} {short(values.get(key))}; expected an integer; export it again"
        ) from error
