"""`prepare-data cvat`: convert an unpacked `CVAT for images 1.1` or `CVAT for video 1.1` export."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.disk_list import DiskList
from panformer_cli.data.images import IMAGE_SUFFIXES
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools import shapes
from panformer_cli.prepare.annotation_tools.cvat_masks import LABEL_MAP, CvatMasks, open_cvat_masks
from panformer_cli.prepare.annotation_tools.cvat_video import frames_of_video, subset_of
from panformer_cli.prepare.annotation_tools.cvat_xml import (
    Attributes,
    XmlHead,
    XmlImage,
    XmlLabel,
    XmlShape,
    XmlTrack,
    read_head,
    read_images,
    read_tracks,
)
from panformer_cli.prepare.annotation_tools.labeled_shapes import (
    VOID_LABELS,
    LabeledShape,
    panoptic_of_shapes,
    with_stuff,
)
from panformer_cli.prepare.annotation_tools.plain_numbers import decimal, whole
from panformer_cli.prepare.annotation_tools.shapes import Box, Patch, Points, Size
from panformer_cli.prepare.classes import read_classes
from panformer_cli.prepare.declared_size import check_size
from panformer_cli.prepare.left_out import NO_AREA, AnnotationError, AnnotationLog, NoAreaError
from panformer_cli.prepare.overlap import OverlapRule
from panformer_cli.prepare.recognize import hint
from panformer_cli.prepare.source import SourceImage, require_folder, visible
from panformer_cli.storage.files import is_file, name_inside
from panformer_cli.wording import listing, short

ANNOTATION = "annotations.xml"

_WITHOUT_AREA = {
    "polyline": NO_AREA,
    "points": NO_AREA,
    "skeleton": "skeleton, without area",
    "cuboid": "cuboid, without outline",
    "tag": "tag of a whole image",
}
"""Annotations that are left out, and why."""

_LABELS_WITHOUT_AREA = frozenset({"polyline", "points", "skeleton", "cuboid", "tag"})
"""Types of labels that no shape with an area can have."""

_DEFAULT = "default"
"""The subset that CVAT writes for tasks without one."""


@dataclass(frozen=True)
class Cvat:
    """A folder with CVAT's XML and its images; open one with `open_cvat`.

    The splits are the subsets of a project or a task. Images without a subset form the split `train`.

    Attributes:
        annotation: The XML.
        head: Its header.
        subsets: The subsets of the images; `default` for images without one.
    """

    root: Path
    categories: CategoryTable
    annotation: Path
    head: XmlHead
    subsets: frozenset[str]
    overlap: OverlapRule = "last"
    own_files: tuple[Path, ...] = ()
    name: str = "cvat"

    @property
    def settings(self) -> dict[str, Any]:
        return {"overlap": self.overlap} | ({"encoding": self.head.encoding} if self.head.encoding else {})

    def splits(self) -> Sequence[str]:
        if not self.subsets:
            raise DataError(f"{self.annotation} lists no images; expected at least one; export it again")
        return sorted(self._split_of(subset) for subset in self.subsets)

    def images(self, split: str) -> Iterator[SourceImage]:
        subset = next((subset for subset in self.subsets if self._split_of(subset) == split), None)
        if subset is None:
            raise DataError(f"{self.root} has no split {split}; expected one of {', '.join(self.splits())}")
        rows = DiskList(self._rows(subset))
        ids = [row.attributes.get("id", "") for row in rows]
        # In a project, each task may number its images from 0.
        if not all(re.fullmatch("[0-9]{1,15}", id_) for id_ in ids) or len(set(map(int, ids))) < len(ids):
            ids = [str(number) for number in range(1, len(rows) + 1)]
        return self._images(rows, ids, self._folders(subset), self._names_of_others(subset))

    def _split_of(self, subset: str) -> str:
        """Return the split of a subset: `train` for `default`, unless another subset has that name."""
        return "train" if subset == _DEFAULT and "train" not in self.subsets else subset

    def _folders(self, subset: str) -> list[Path]:
        """Return the folders in which the images of a subset may be."""
        names = dict.fromkeys([subset, self._split_of(subset)])
        images = self.root / "images"
        return [*(images / name for name in names), images, *(self.root / name for name in names), self.root]

    def _names_of_others(self, subset: str) -> DiskList[str]:
        """Return the names of images in other subsets. For a video, these are frames of any name."""
        names = DiskList[str](key=str)
        if len(self.subsets) > 1 and not self.head.has_tracks:
            others = (row for row in self._image_rows() if subset_of(row.attributes, self.head) != subset)
            names.extend(row.attributes.get("name", "") for row in others)
        return names

    def _rows(self, subset: str) -> Iterator[XmlImage]:
        if self.head.has_tracks:
            return frames_of_video(self.annotation, self.head, subset, self._folders(subset))
        return (row for row in self._image_rows() if subset_of(row.attributes, self.head) == subset)

    def _image_rows(self) -> Iterator[XmlImage]:
        return read_images(self.annotation, self.head.encoding)

    def _images(
        self, rows: Sequence[XmlImage], ids: Sequence[str], folders: Sequence[Path], others: DiskList[str]
    ) -> Iterator[SourceImage]:
        """Yield the images of a split. Raises a DataError at the end if none of them exists.

        An image in a folder of all subsets is a bad image if another subset lists the same name.
        """
        image, has_image = None, False
        shared = (self.root / "images", self.root)
        is_ambiguous_video = self.head.has_tracks and len(self.subsets) > 1
        for id_, row in zip(ids, rows, strict=True):
            try:
                image, folder = self._image(int(id_), row, folders)
            except DataError as error:
                yield SourceImage(int(id_), self.annotation, f"{id_}.bad", problem=str(error))
                continue
            name = row.attributes.get("name", "")
            is_there = is_file(image.path)
            has_image = has_image or is_there
            if is_there and folder in shared and (is_ambiguous_video or others.first(name) is not None):
                problem = (
                    f"{image.path} could belong to several subsets, which all list {short(name)}; expected it in "
                    f"{folders[0]}, where CVAT puts it; export the project again"
                )
                image = replace(image, problem=problem)
            yield image
        if image is not None and not has_image:
            raise DataError(
                f"the image {image.path} is missing, and so are all others that {self.annotation} lists; looked in "
                f"{listing(folders)}; export the data set with its images (`Save images`), or put them there"
            )

    def _image(self, number: int, row: XmlImage, folders: Sequence[Path]) -> tuple[SourceImage, Path]:
        """Return an image and the folder that it is in. Raises a DataError if its name is missing or leads out."""
        name = row.attributes.get("name", "").replace("\\", "/")
        if not name:
            found = short(row.attributes.get("id"))
            raise DataError(f"{self.annotation}: the image with the id {found} has no name; export it again")
        candidates = [(folder, name_inside(folder, name, str(self.annotation))) for folder in folders]
        named = [(folder, _with_suffix(path)) for folder, path in candidates]
        usual = next(candidate for candidate in candidates if candidate[0] == self.root / "images")
        folder, path = next((candidate for candidate in named if is_file(candidate[1])), usual)
        return SourceImage(number, path, path.relative_to(folder).as_posix(), (self.annotation,), row), folder

    def read(self, image: SourceImage, size: tuple[int, int], log: AnnotationLog) -> PanopticMap:
        row: XmlImage = image.extra
        where = f"{image.labels[0]}: image {row.attributes['name']}"
        if not self.head.has_tracks or self.head.size is not None:
            height, width = _whole(row.attributes, "height", where), _whole(row.attributes, "width", where)
            check_size((height, width), size, where)
        drawn = []
        for number, shape in enumerate(row.shapes, 1):
            with log.annotation():
                z_order = _whole(shape.attributes, "z_order", where, 0)
                drawn.append((z_order, _shape(shape, number, size, where)))
        bottom_up = [shape for _, shape in sorted(drawn, key=lambda pair: pair[0])]
        return panoptic_of_shapes(bottom_up, size, self.categories, self.overlap, where, log)


def open_cvat(
    root: Path, classes: Path | None, stuff: Sequence[str], overlap: OverlapRule, encoding: str | None = None
) -> Cvat:
    """Return the source in the folder `root`.

    Args:
        root: The folder with the XML.
        classes: A file for `read_classes`. None takes the labels of the task as things, in its order and with its
            colors, numbered from 1.
        stuff: Names of the classes that are stuff.
        overlap: Which shape keeps shared pixels.
        encoding: Encoding of an XML or a class file that is not UTF-8.

    Raises:
        DataError: annotations.xml is missing, has another format or no labels, or a name is unknown.
    """
    require_folder(root)
    path = find_annotation(root)
    if not path.exists():
        raise DataError(
            f"{path} is missing; expected an unpacked `CVAT for images 1.1` or `CVAT for video 1.1` export with "
            f"annotations.xml and images{hint(root, 'cvat')}"
        )
    head = read_head(path, encoding)
    table = read_classes(classes, encoding=encoding) if classes else _table(path, head)
    subsets = frozenset(subset_of(row.attributes, head) for row in _parents(path, head))
    for subset in subsets:
        if subset in (".", "..") or "/" in subset or "\\" in subset:
            raise DataError(
                f"the subset {short(subset)} is not a valid folder name; rename it in CVAT and export it again"
            )
    own_files = (classes,) if classes else ()
    return Cvat(root, with_stuff(table, stuff), path, head, subsets, overlap, own_files)


def open_cvat_export(
    root: Path,
    classes: Path | None = None,
    stuff: Sequence[str] = (),
    overlap: OverlapRule = "last",
    encoding: str | None = None,
) -> Cvat | CvatMasks:
    """Return the source in the folder `root`: masks if it has their colors but no XML. See `open_cvat`."""
    require_folder(root)
    if (root / LABEL_MAP).is_file() and not find_annotation(root).exists():
        return open_cvat_masks(root, classes, stuff, encoding)
    return open_cvat(root, classes, stuff, overlap, encoding)


def find_annotation(root: Path) -> Path:
    """Return `annotations.xml`, or the only other XML in the folder; older versions of CVAT name it after the task.

    Raises:
        DataError: There are several others.
    """
    found = [path for path in visible(root) if path.suffix == ".xml"]
    if len(found) > 1 and root / ANNOTATION not in found:
        raise DataError(
            f"{root} has several XML files: {listing(path.name for path in found)}; expected one; put each with its "
            f"images in a folder of its own, or name the right one {ANNOTATION}"
        )
    return found[0] if len(found) == 1 else root / ANNOTATION


def _parents(path: Path, head: XmlHead) -> Iterator[XmlImage | XmlTrack]:
    return (read_tracks if head.has_tracks else read_images)(path, head.encoding)


def _table(path: Path, head: XmlHead) -> CategoryTable:
    """Return the labels that shapes with an area can have. Those with a parent are key points of a skeleton."""
    usable = [label for label in head.labels if label.type not in _LABELS_WITHOUT_AREA and not label.parent]
    labels = {label.name: label for label in usable if label.name not in VOID_LABELS}
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


def _with_suffix(path: Path) -> Path:
    """Return the file of an image; a frame of a video is listed without its extension."""
    if path.suffix.lower() in IMAGE_SUFFIXES or is_file(path):
        return path
    found = (path.with_name(path.name + suffix) for suffix in (".PNG", ".png", ".jpg"))
    return next((path for path in found if is_file(path)), path)


def _shape(shape: XmlShape, number: int, size: Size, where: str) -> LabeledShape:
    label = shape.attributes.get("label", "")
    name = f"{shape.kind} {number} ({label})"
    group = shape.attributes.get("group_id", "0")
    return LabeledShape(label, _patch(shape, size, f"{where}: {name}"), name, None if group == "0" else group)


def _patch(shape: XmlShape, size: Size, where: str) -> Patch:
    values = shape.attributes
    if shape.kind == "polygon":
        points = _points(values.get("points", ""), where)
        shapes.check_not_fractions(points.ravel().tolist(), size, where)
        return shapes.polygon(points, size, where)
    if shape.kind == "box":
        corners = np.array([_number(values, key, where) for key in ("xtl", "ytl", "xbr", "ybr")]).reshape(2, 2)
        shapes.check_not_fractions(corners.ravel().tolist(), size, where)
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
        raise NoAreaError(f"{where} has no area; to use it, draw its outline as a polygon", _WITHOUT_AREA[shape.kind])
    raise AnnotationError(
        f"{where} has no area; expected polygon, box, ellipse or mask; draw its outline as a polygon, or "
        "delete it in CVAT"
    )


def _points(text: str, where: str) -> Points:
    """`x,y;x,y;...`"""
    try:
        pairs = [[decimal(value) for value in pair.split(",")] for pair in text.split(";")]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError
    except ValueError as error:
        raise DataError(
            f"{where} has the points {short(text)}; expected x,y;x,y;... in pixels; export it again"
        ) from error
    return np.array(pairs)


def _counts(text: str, where: str) -> list[int]:
    try:
        return [whole(count) for count in text.split(",")]
    except ValueError as error:
        raise DataError(
            f"{where} has the rle {short(text)}; expected comma-separated integers; export it again"
        ) from error


def _number(values: Attributes, key: str, where: str, default: float | None = None) -> float:
    try:
        return default if default is not None and key not in values else decimal(values[key])
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{where} has the {key} {short(values.get(key))}; expected a number; export it again"
        ) from error


def _whole(values: Attributes, key: str, where: str, default: int | None = None) -> int:
    try:
        return default if default is not None and key not in values else whole(values[key])
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{where} has the {key} {short(values.get(key))}; expected an integer; export it again"
        ) from error
