"""`prepare-data labelme`: images with the JSON that labelme writes for each of them.

What stands in such a JSON is in labelme's own `labelme/_label_file.py` and `labelme/utils/shape.py`.
"""

from __future__ import annotations

import base64
import binascii
import io
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.images import IMAGE_SUFFIXES, read_bytes
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools import shapes
from panformer_cli.prepare.annotation_tools.labeled_shapes import (
    VOID_LABELS,
    LabelledShape,
    check_size,
    panoptic_of_shapes,
    table_of_names,
    with_stuff,
)
from panformer_cli.prepare.annotation_tools.shapes import Mask, Patch, Points, Size
from panformer_cli.prepare.classes import read_classes
from panformer_cli.prepare.overlap import OverlapRule
from panformer_cli.prepare.source import SourceImage, listed_files
from panformer_cli.storage.files import name_inside
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.wording import short

_JSON = frozenset({".json"})

_SPLIT_NAME = re.compile("(train|training|val|valid|validation|test|testing)[0-9]*", re.IGNORECASE)
"""What a folder is called, if it is a split."""

_POLYGONS = frozenset({"polygon", "oriented_rectangle", "rotation"})
"""Shape types that list the corners: of labelme, and X-AnyLabeling's rotated box."""


@dataclass(frozen=True)
class Labelme:
    """A folder of labelme's JSON files, each naming its picture; open one with `open_labelme`.

    Folders of `root` called train, val, test or alike that hold such files are splits; without them all files are the
    split `train`. Pictures without a JSON are left out.
    """

    root: Path
    categories: CategoryTable
    overlap: OverlapRule = "last"
    name: str = "labelme"

    @property
    def settings(self) -> dict[str, Any]:
        return {"overlap": self.overlap}

    def splits(self) -> Sequence[str]:
        return list(_split_folders(self.root))

    def images(self, split: str) -> Iterator[SourceImage]:
        folders = _split_folders(self.root)
        if split not in folders:
            raise DataError(f"{self.root} has no split {split}; expected one of {', '.join(folders)}")
        files = listed_files(folders[split], _JSON)
        return (self._image(number, path, folders[split]) for number, path in enumerate(files, 1))

    def _image(self, number: int, labels: Path, folder: Path) -> SourceImage:
        try:
            picture = self._picture(labels, folder)
        except DataError as error:
            return SourceImage(number, labels, f"{labels.relative_to(folder).as_posix()}.bad", problem=str(error))
        home = folder if picture.is_relative_to(folder) else self.root
        return SourceImage(number, picture, picture.relative_to(home).as_posix(), (labels,))

    def _picture(self, labels: Path, folder: Path) -> Path:
        """The file that `imagePath` names, relative to the JSON and somewhere below `root`."""
        try:
            name = _read_json(labels)["imagePath"].replace("\\", "/")
        except DataError:
            # One bad JSON is told, or left out, with the other bad images, if its picture can be guessed.
            for path in sorted(labels.parent.iterdir()):
                if path.stem == labels.stem and path.suffix.lower() in IMAGE_SUFFIXES:
                    return name_inside(labels.parent, path.name, str(labels))
            raise
        inner = _below(folder, labels, name)
        if inner.startswith(".."):  # in another folder of the data set
            return name_inside(self.root, _below(self.root, labels, name), str(labels))
        return name_inside(folder, inner, str(labels))

    def read(self, image: SourceImage, size: tuple[int, int]) -> PanopticMap:
        path = image.labels[0]
        content = _read_json(path)
        if content.get("imageHeight") is not None and content.get("imageWidth") is not None:
            check_size((content["imageHeight"], content["imageWidth"]), size, str(path))
        drawn = [_shape(row, number, size, path) for number, row in enumerate(content["shapes"], 1)]
        return panoptic_of_shapes(drawn, size, self.categories, self.overlap, str(path))


def open_labelme(root: Path, classes: Path | None, stuff: Sequence[str], overlap: OverlapRule) -> Labelme:
    """The source in the folder `root`.

    classes: a file for `read_classes`; None takes all labels that are drawn, sorted and numbered from 1, as things.
    stuff: names of classes that are stuff.

    Raises:
        DataError: no such folder, no JSON or no label in it, or unknown names.
    """
    table = read_classes(classes) if classes else table_of_names(_labels_in(root))
    return Labelme(root, with_stuff(table, stuff), overlap)


def _below(folder: Path, labels: Path, name: str) -> str:
    """`name`, which is relative to the file `labels`, relative to `folder`; with `..` in front where it leads out."""
    return posixpath.normpath(posixpath.join(labels.parent.relative_to(folder).as_posix(), name))


def _labels_in(root: Path) -> list[str]:
    """All labels of all splits, sorted. Files that cannot be read are passed over: reading their image tells."""
    labels = set()
    for folder in _split_folders(root).values():
        for path in listed_files(folder, _JSON):
            try:
                rows = _read_json(path)["shapes"]
            except DataError:
                continue
            labels |= {row["label"] for row in rows if isinstance(row, dict) and isinstance(row.get("label"), str)}
    if not labels.difference(VOID_LABELS):
        raise DataError(
            f"no JSON of {root} has a shape with a class; draw some, or name the classes with --classes FILE"
        )
    return sorted(labels.difference(VOID_LABELS))


def _split_folders(root: Path) -> dict[str, Path]:
    """Splits by name; DataError where `root` holds no JSON."""
    if next(listed_files(root, _JSON), None) is None and not list(_named_splits(root)):
        raise DataError(f"{root} has no .json file; expected the files that labelme saves, beside their pictures")
    return {folder.name: folder for folder in _named_splits(root)} or {"train": root}


def _named_splits(root: Path) -> Iterator[Path]:
    for folder in sorted(root.iterdir()):
        is_named = folder.is_dir() and _SPLIT_NAME.fullmatch(folder.name)
        if is_named and next(listed_files(folder, _JSON), None) is not None:
            yield folder


def _read_json(path: Path) -> dict[str, Any]:
    """An object with a text `imagePath` and a list `shapes`; DataError for anything else."""
    data = read_bytes(path, "labelme file")
    try:
        content = parse_json(data)
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON, or is truncated; save it again with labelme") from error
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise DataError(f"{path} is no labelme file: it has no list `shapes`; move it out of this folder")
    if not isinstance(content.get("imagePath"), str) or not content["imagePath"]:
        raise DataError(
            f"{path} names no picture: imagePath is {short(content.get('imagePath'))}; expected the picture's file "
            "name (pictures inside the JSON are not read)"
        )
    return content


def _shape(row: Any, number: int, size: Size, path: Path) -> LabelledShape:
    if not isinstance(row, dict) or not isinstance(row.get("label"), str):
        raise DataError(f"{path}: shape {number} is {short(row)}; expected an object with label and points")
    kind, label, group = row.get("shape_type") or "polygon", row["label"], row.get("group_id")
    name = " ".join(f"{kind} {number} ({label})".split())[:80]
    if not isinstance(kind, str):
        raise DataError(f"{path}: shape {number} has the shape_type {short(kind)}; expected text such as polygon")
    if group is not None and not isinstance(group, int | str):
        raise DataError(f"{path}: {name} has the group_id {short(group)}; expected a whole number or null")
    flags = row.get("flags")
    is_crowd = isinstance(flags, dict) and flags.get("iscrowd") is True
    return LabelledShape(label, _patch(kind, row, size, f"{path}: {name}"), name, group, is_crowd)


def _patch(kind: str, row: dict[str, Any], size: Size, where: str) -> Patch:
    if kind == "mask":
        return _drawn_mask(row, size, where)
    if kind not in ("rectangle", "circle") and kind not in _POLYGONS:
        raise DataError(
            f"{where} is no area; expected polygon, rectangle, oriented_rectangle, circle or mask; draw its outline "
            "as a polygon, or delete it in labelme"
        )
    points = _points(row, where)
    if kind in _POLYGONS or (kind == "rectangle" and len(points) == 4):  # X-AnyLabeling writes all four corners
        return shapes.polygon(points, size, where)
    if len(points) != 2:
        raise DataError(f"{where} has {len(points)} points; expected 2; draw it again")
    if kind == "rectangle":
        return shapes.rectangle(points, size, where)
    center, edge = points
    radius = float(np.hypot(*(edge - center)))
    return shapes.ellipse(center.tolist(), (radius, radius), size, where)


def _points(row: dict[str, Any], where: str) -> Points:
    points = row.get("points")
    is_pairs = isinstance(points, list) and all(
        isinstance(point, list) and len(point) == 2 and all(type(value) in (int, float) for value in point)
        for point in points
    )
    if not points or not is_pairs:
        raise DataError(f"{where} has the points {short(points)}; expected a list of [x, y] in pixels; draw it again")
    try:
        return np.array(points, np.float64)
    except OverflowError as error:
        raise DataError(f"{where} has a coordinate that is no finite number; expected pixels; draw it again") from error


def _drawn_mask(row: dict[str, Any], size: Size, where: str) -> Patch:
    """Its points are the first and the last pixel of a box, corner to corner; `mask` is the box as a PNG."""
    points = _points(row, where)
    if len(points) != 2 or not np.isfinite(points).all():
        raise DataError(f"{where} has {len(points)} points; expected the 2 corners of its mask; draw it again")
    (left, top), (right, bottom) = points.tolist()
    # Some programs give the pixel behind the last one.
    expected = (abs(bottom - top) + 1, abs(right - left) + 1)
    if expected[0] > size[0] + 1 or expected[1] > size[1] + 1:
        raise DataError(f"{where} is larger than its image; check that picture and labels belong together")
    mask = _decode_mask(row.get("mask"), expected, where)
    return shapes.bitmap(mask, int(min(top, bottom)), int(min(left, right)), size, where)


def _decode_mask(text: Any, expected: tuple[float, float], where: str) -> Mask:
    """The pixels of a PNG in base64 that are not 0, after its header has been held to the `expected` height, width."""
    if not isinstance(text, str):
        raise DataError(f"{where} has the mask {short(text)}; expected a PNG in base64; draw it again")
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as image:
            if abs(image.height - expected[0]) > 1 or abs(image.width - expected[1]) > 1:
                raise DataError(
                    f"{where} has a mask of {image.width}x{image.height} in a box of {expected[1]:g}x{expected[0]:g} "
                    "(width x height); expected equal sizes; draw it again"
                )
            pixels = np.asarray(image if image.mode in ("1", "L") else image.convert("RGB"))
    except DataError:
        raise
    except (binascii.Error, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{where} has a mask that is no PNG in base64, or is truncated; draw it again") from error
    return np.asarray(pixels.any(axis=2) if pixels.ndim == 3 else pixels, np.bool_)
