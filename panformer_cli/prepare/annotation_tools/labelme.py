"""`prepare-data labelme`: convert images with labelme's JSON files.

The format is defined by labelme's `labelme/_label_file.py` and `labelme/utils/shape.py`.
"""

from __future__ import annotations

import base64
import binascii
import io
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import Image

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.json_values import is_text
from panformer_cli.data.image_header import read_header
from panformer_cli.data.images import read_bytes
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools import shapes
from panformer_cli.prepare.annotation_tools.labeled_shapes import (
    VOID_LABELS,
    LabeledShape,
    panoptic_of_shapes,
    table_of_names,
    with_stuff,
)
from panformer_cli.prepare.annotation_tools.shapes import Mask, Patch, Points, Size
from panformer_cli.prepare.classes import read_classes
from panformer_cli.prepare.declared_size import check_size
from panformer_cli.prepare.left_out import BAD_COORDINATES, AnnotationError, AnnotationLog, NoAreaError
from panformer_cli.prepare.overlap import OverlapRule
from panformer_cli.prepare.source import SPLIT_NAME, SourceImage, listed_files, visible
from panformer_cli.storage.files import is_file, name_inside
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.storage.text_files import decode_text
from panformer_cli.wording import counted, listing, short, with_first

_JSON = frozenset({".json"})

_WITHOUT_AREA = ("line", "linestrip", "point", "points")
"""Shape types that are left out."""

_EMBEDDED = "embedded"
"""`extra` of an image that is in its JSON."""
_PNG_START = "iVBOR"
"""The first bytes of a PNG in base64. labelme embeds PNG and JPEG."""

_ABSOLUTE = re.compile("/|[A-Za-z]:")
"""How a path begins that is not relative, with `/` as separator."""

_FILE_URL = re.compile("file://[^/]*(?=/)", re.IGNORECASE)
"""What precedes the path of a local file in its URL."""

_POLYGONS = frozenset({"polygon", "oriented_rectangle", "rotation"})
"""Shape types that list corners: labelme's, and X-AnyLabeling's rotated box."""


@dataclass(frozen=True)
class Labelme:
    """A folder of labelme JSON files, each naming its image; open one with `open_labelme`.

    Subfolders named train, val, test or similar that contain such files are splits. Without them, all files form the
    split `train`. Images without a JSON are ignored.

    The `extra` of an image is `_EMBEDDED` if it is in its JSON.
    """

    root: Path
    categories: CategoryTable
    overlap: OverlapRule = "last"
    encoding: str | None = None
    own_files: tuple[Path, ...] = ()
    name: str = "labelme"

    @property
    def settings(self) -> dict[str, Any]:
        return {"overlap": self.overlap} | ({"encoding": self.encoding} if self.encoding else {})

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
            path, is_embedded = self._image_path(labels, folder)
        except DataError as error:
            return SourceImage(number, labels, f"{labels.relative_to(folder).as_posix()}.bad", problem=str(error))
        name = path.relative_to(folder if path.is_relative_to(folder) else self.root).as_posix()
        if is_embedded:
            return SourceImage(number, labels, name, (labels,), _EMBEDDED)
        return SourceImage(number, path, name, (labels,))

    def _image_path(self, labels: Path, folder: Path) -> tuple[Path, bool]:
        """Return the path of the image of a JSON, and whether its file is missing and the JSON contains the image."""
        content = _read_json(labels, self.encoding)
        data = _image_data(content)
        try:
            path = self._named_image(labels, folder, content.get("imagePath"))
        except DataError:
            if not data:
                raise
            return labels.with_suffix(".png" if data.startswith(_PNG_START) else ".jpg"), True
        return path, bool(data) and not is_file(path)

    def _named_image(self, labels: Path, folder: Path, named: Any) -> Path:
        """Return the image that `imagePath` names, relative to the JSON and inside `root`."""
        # labelme's own tutorial has a file that names itself
        if not isinstance(named, str) or not named or named.lower().endswith(".json"):
            raise DataError(
                f"{labels} names no image: imagePath is {short(named)}; expected the image's file name, or the image "
                "itself in imageData"
            )
        name = named.replace("\\", "/")
        if url := _FILE_URL.match(name):
            name = unquote(name[url.end() :])
        if _ABSOLUTE.match(name):
            return _beside(labels, folder, name)
        inner = _below(folder, labels, name)
        if inner.startswith(".."):  # in another folder of the data set
            return name_inside(self.root, _below(self.root, labels, name), str(labels))
        return name_inside(folder, inner, str(labels))

    def conventions(self, split: str, marks: Mapping[str, int]) -> Sequence[str]:
        """Return a sentence about JSON files that belong to no split."""
        del split, marks
        folders = _split_folders(self.root)
        files = listed_files(self.root, _JSON)
        others = [path for path in files if not any(map(path.is_relative_to, folders.values()))]
        if not others:
            return []
        found = f"{counted(len(others), 'JSON file')} outside of {listing(folders.values())}, such as {others[0]}"
        return [f"not used: {found}; to convert all files, move them into the folders of splits"]

    def embedded_image(self, image: SourceImage) -> bytes | None:
        """Return the image in `imageData` if its file is missing."""
        if image.extra != _EMBEDDED:
            return None
        path = image.labels[0]
        try:
            data = _decode_base64(_image_data(_read_json(path, self.encoding)))
            read_header(path, data)
        except ValueError as error:
            raise DataError(
                f"{path}: its image file is missing, and its imageData is not an image in base64 or is truncated; "
                "restore one of them"
            ) from error
        return data

    def read(self, image: SourceImage, size: tuple[int, int], log: AnnotationLog) -> PanopticMap:
        path = image.labels[0]
        content = _read_json(path, self.encoding)
        check_size((content.get("imageHeight"), content.get("imageWidth")), size, str(path))
        drawn = []
        for number, row in enumerate(content["shapes"], 1):
            with log.annotation():
                drawn.append(_shape(row, number, size, path))
        return panoptic_of_shapes(drawn, size, self.categories, self.overlap, str(path), log)


def open_labelme(
    root: Path,
    classes: Path | None = None,
    stuff: Sequence[str] = (),
    overlap: OverlapRule = "last",
    encoding: str | None = None,
) -> Labelme:
    """Return the source in the folder `root`.

    Args:
        root: The folder with the JSON files.
        classes: A file for `read_classes`. None takes all labels in use as things, sorted and numbered from 1.
        stuff: Names of the classes that are stuff.
        overlap: Which shape keeps shared pixels.
        encoding: Encoding of files that are not UTF-8.

    Raises:
        DataError: The folder is missing or has no JSON or no labels, or a name is unknown.
    """
    table = read_classes(classes, encoding=encoding) if classes else table_of_names(_labels_in(root, encoding))
    return Labelme(root, with_stuff(table, stuff), overlap, encoding, (classes,) if classes else ())


def _below(folder: Path, labels: Path, name: str) -> str:
    """Return `name`, which is relative to the file `labels`, relative to `folder`; starts with `..` if outside."""
    return posixpath.normpath(posixpath.join(labels.parent.relative_to(folder).as_posix(), name))


def _beside(labels: Path, folder: Path, name: str) -> Path:
    """Return the image next to its JSON, which names it by its absolute path, often one of another computer."""
    path = name_inside(folder, _below(folder, labels, posixpath.basename(name)), str(labels))
    if not is_file(path):
        raise DataError(
            f"{labels} names its image by the absolute path {short(name)}, and {path} does not exist; expected the "
            "image next to its JSON; put it there"
        )
    return path


def _labels_in(root: Path, encoding: str | None) -> list[str]:
    """Return all labels of all splits, sorted. If there are some, unreadable files are reported with their image."""
    labels: set[str] = set()
    others: Counter[str] = Counter()
    problems = []
    for folder in _split_folders(root).values():
        for path in listed_files(folder, _JSON):
            try:
                rows = _read_json(path, encoding)["shapes"]
            except DataError as error:
                problems.append(str(error))
                continue
            labels |= {row["label"].strip() for row in rows if not _unused_as(row)}
            others.update(reason for row in rows if (reason := _unused_as(row)))
    if labels:
        return sorted(labels)
    if problems:
        heading = f"{root} has no labels that can be read: {counted(len(problems), 'JSON file')} cannot be used:"
        raise DataError(with_first(heading, problems))
    found = f" (found {', '.join(f'{count} {reason}' for reason, count in others.items())})" if others else ""
    raise DataError(
        f"no JSON file in {root} has a labeled shape with an area, such as a polygon{found}; draw some, or list the "
        "classes with --classes FILE"
    )


def _unused_as(row: Any) -> str:
    """Return why a shape names no class; empty if it does."""
    label = row.get("label") if isinstance(row, dict) else None
    if not isinstance(label, str):
        return "without a label that is text"
    if not is_text(label):
        return "with a label that is not valid Unicode"
    if not label.strip():
        return "with an empty label"
    if label.strip() in VOID_LABELS:
        return f"labeled {label.strip()}"
    return "without an area" if row.get("shape_type") in _WITHOUT_AREA else ""


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split. Raises a DataError if `root` contains no JSON."""
    if next(listed_files(root, _JSON), None) is None and not list(_named_splits(root)):
        raise DataError(f"{root} has no .json files; expected the files that labelme saves next to the images")
    return {folder.name: folder for folder in _named_splits(root)} or {"train": root}


def _named_splits(root: Path) -> Iterator[Path]:
    for folder in visible(root):
        is_named = folder.is_dir() and SPLIT_NAME.fullmatch(folder.name)
        if is_named and next(listed_files(folder, _JSON), None) is not None:
            yield folder


def _read_json(path: Path, encoding: str | None) -> dict[str, Any]:
    """Return an object with the list `shapes`. Raises a DataError for anything else."""
    text = decode_text(read_bytes(path, "labelme file"), path, encoding)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON, or is truncated; save it again with labelme") from error
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise DataError(f"{path} is not a labelme file: it has no list `shapes`; move it out of this folder")
    return content


def _image_data(content: Mapping[str, Any]) -> str:
    """Return the base64 text of the image in a JSON; empty if there is none."""
    text = content.get("imageData")
    return text.rpartition(",")[2].strip() if isinstance(text, str) else ""  # some tools begin with `data:...,`


def _decode_base64(text: str) -> bytes:
    """Return the content of a base64 text, which may have line breaks. Raises a ValueError if it is not base64."""
    return base64.b64decode("".join(text.split()), validate=True)


def _shape(row: Any, number: int, size: Size, path: Path) -> LabeledShape:
    if not isinstance(row, dict) or not isinstance(row.get("label"), str):
        raise DataError(f"{path}: shape {number} is {short(row)}; expected an object with label and points")
    kind, label, group = row.get("shape_type") or "polygon", row["label"].strip(), row.get("group_id")
    if not is_text(label):
        raise AnnotationError(f"{path}: shape {number} has the label {short(label)}, not valid Unicode; rename it")
    name = " ".join(f"{kind} {number} ({label})".split())[:80]
    if not isinstance(kind, str):
        raise DataError(f"{path}: shape {number} has the shape_type {short(kind)}; expected text such as polygon")
    if group is not None and not isinstance(group, int | str):
        raise DataError(f"{path}: {name} has the group_id {short(group)}; expected an integer or null")
    flags = row.get("flags")
    is_crowd = isinstance(flags, dict) and flags.get("iscrowd") is True
    return LabeledShape(label, _patch(kind, row, size, f"{path}: {name}"), name, group, is_crowd)


def _patch(kind: str, row: dict[str, Any], size: Size, where: str) -> Patch:
    if kind == "mask":
        return _drawn_mask(row, size, where)
    if kind in _WITHOUT_AREA:
        raise NoAreaError(f"{where} has no area; to use it, draw its outline as a polygon")
    if kind not in ("rectangle", "circle") and kind not in _POLYGONS:
        raise AnnotationError(
            f"{where} has an unknown shape_type; expected polygon, rectangle, oriented_rectangle, circle or mask; draw "
            "its outline as a polygon, or delete it in labelme"
        )
    points = _points(row, where)
    shapes.check_not_fractions(points.ravel().tolist(), size, where)
    if kind in _POLYGONS or (kind == "rectangle" and len(points) == 4):  # X-AnyLabeling writes all four corners
        return shapes.polygon(points, size, where)
    if len(points) != 2:
        raise DataError(f"{where} has {counted(len(points), 'point')}; expected 2; draw it again")
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
        raise AnnotationError(
            f"{where} has the points {short(points)}; expected a list of [x, y] in pixels; draw it again",
            BAD_COORDINATES,
        )
    try:
        return np.array(points, np.float64)
    except OverflowError as error:
        raise AnnotationError(
            f"{where} has a non-finite coordinate; expected pixels; draw it again", BAD_COORDINATES
        ) from error


def _drawn_mask(row: dict[str, Any], size: Size, where: str) -> Patch:
    """Return a drawn mask: `points` are the first and last pixel of its box, `mask` is the box as a PNG."""
    points = _points(row, where)
    if len(points) != 2 or not np.isfinite(points).all():
        raise DataError(
            f"{where} has {counted(len(points), 'point')}; expected the 2 corners of its mask; draw it again"
        )
    (left, top), (right, bottom) = points.tolist()
    # Some tools write the pixel after the last one.
    expected = (abs(bottom - top) + 1, abs(right - left) + 1)
    if expected[0] > size[0] + 1 or expected[1] > size[1] + 1:
        raise DataError(f"{where} is larger than its image; check that image and labels belong together")
    mask = _decode_mask(row.get("mask"), expected, where)
    return shapes.bitmap(mask, int(min(top, bottom)), int(min(left, right)), size, where)


def _decode_mask(text: Any, expected: tuple[float, float], where: str) -> Mask:
    """Return the nonzero pixels of a base64 PNG, after checking its header against the `expected` height and width."""
    if not isinstance(text, str):
        raise DataError(f"{where} has the mask {short(text)}; expected a base64 PNG; draw it again")
    try:
        with Image.open(io.BytesIO(_decode_base64(text)), formats=["PNG"]) as image:
            if abs(image.height - expected[0]) > 1 or abs(image.width - expected[1]) > 1:
                raise DataError(
                    f"{where} has a mask of {image.width}x{image.height} in a box of {expected[1]:g}x{expected[0]:g} "
                    "(width x height); expected equal sizes; draw it again"
                )
            pixels = np.asarray(image if image.mode in ("1", "L") else image.convert("RGB"))
    except DataError:
        raise
    except (binascii.Error, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{where} has a mask that is not a base64 PNG or is truncated; draw it again") from error
    return np.asarray(pixels.any(axis=2) if pixels.ndim == 3 else pixels, np.bool_)
