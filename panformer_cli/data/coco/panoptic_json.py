"""Reads and validates COCO's panoptic JSON, of ground truth and of predictions."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import CategoryTable, ids_by_name
from panformer_cli.data.coco.json_stream import read_panoptic_members
from panformer_cli.data.coco.json_values import is_count, is_finite, is_image_id, is_name, is_score
from panformer_cli.data.coco.panoptic_annotation import (
    SEGMENT_ROW,
    ImageInfo,
    JsonRows,
    PanopticAnnotation,
    SegmentRows,
    joined_type,
    narrowed,
)
from panformer_cli.data.coco.panoptic_png import MAX_ID
from panformer_cli.data.disk_list import DiskList
from panformer_cli.errors import DataError
from panformer_cli.wording import short

ImageId = int | str

_BLOCK = 2**11
"""Segments collected as Python objects before they are stored in an array."""


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


_HEAD: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("image_id", is_image_id, "an integer or text"),
    ("file_name", is_name, "the name of a PNG"),
    ("segments_info", _is_list, "a list of segments"),
)
"""The keys of an annotation, how each is checked, and what is expected."""


class _ImageRow(NamedTuple):
    """The fields kept of a row of `images`; height and width are not yet validated."""

    file_name: str
    height: Any = None
    width: Any = None


_Images = DiskList[tuple[ImageId, _ImageRow]]


def read_annotation(path: Path) -> PanopticAnnotation:
    """Return a validated panoptic JSON; it is read image by image, to save memory.

    Raises:
        DataError: the file is missing, not valid JSON, not a panoptic JSON, or inconsistent.
    """
    lists = _read_lists(
        path,
        {
            "images": lambda rows: _images_by_id(rows, path),
            "annotations": lambda rows: _Annotations(rows, path),
            "categories": list,
        },
    )
    categories = CategoryTable.from_coco(lists["categories"], str(path))
    annotations: _Annotations = lists["annotations"]
    return annotations.checked(lists["images"], categories)


def read_predictions(path: Path, categories: CategoryTable) -> PanopticAnnotation:
    """Return validated predictions in COCO's panoptic format; only `annotations` is needed.

    Args:
        path: the panoptic JSON.
        categories: category table of the ground truth.

    Returns:
        The predictions, with the category ids of the ground truth. The file name of an image is empty if `images` does
        not list it.

    Raises:
        DataError: as `read_annotation`, or a segment has a class whose name is not in `categories`, see `ids_by_name`.
    """
    lists = _read_lists(
        path,
        {"annotations": lambda rows: _Annotations(rows, path), "images": _image_names, "categories": _category_names},
        optional={"images", "categories"},
    )
    annotations: _Annotations = lists["annotations"]
    names: _Images = lists.get("images", _Images(key=itemgetter(0)))
    images = _Images(((image_id, _name_in(names, image_id)) for image_id, _ in annotations.png_names), itemgetter(0))
    return annotations.checked(images, categories, ids_by_name(lists.get("categories", []), categories))


def read_image_ids(path: Path) -> list[tuple[str, ImageId]]:
    """Return file name and id of all images that a JSON lists, with or without annotations.

    Raises:
        DataError: as `read_annotation`, or there is no image.
    """
    images: _Images = _read_lists(path, {"images": lambda rows: _images_by_id(rows, path)})["images"]
    if not images:
        raise DataError(f"{path} lists no image; expected rows of id and file_name in `images`")
    return [(row.file_name, image_id) for image_id, row in images]


def _read_lists(
    path: Path, parsers: Mapping[str, Callable[[Iterator[Any]], Any]], optional: Collection[str] = ()
) -> dict[str, Any]:
    """Return the lists named in `parsers`, each as returned by its parser, which receives an iterator of rows."""
    lists = {
        key: parsers[key](value)
        for key, value in read_panoptic_members(path)
        if key in parsers and isinstance(value, Iterator)
    }
    missing = [key for key in parsers if key not in lists and key not in optional]
    if missing:
        raise DataError(f"{path} is missing the lists {', '.join(missing)}; expected a COCO panoptic JSON")
    return lists


def _image_names(rows: Iterator[Any]) -> _Images:
    """Return the rows with an id and a file name; predictions of other tools may have other rows, or none."""
    images = _Images(key=itemgetter(0))
    for row in rows:
        if isinstance(row, dict) and is_image_id(row.get("id")) and is_name(row.get("file_name")):
            images.append((row["id"], _ImageRow(row["file_name"])))
    return images


def _category_names(rows: Iterator[Any]) -> list[tuple[int, str]]:
    """Return the id and name of the rows that have both; predictions of other tools may have other rows, or none."""
    usable = (row for row in rows if isinstance(row, dict) and is_count(row.get("id"), 0))
    return [(row["id"], row["name"]) for row in usable if isinstance(row.get("name"), str)]


def _name_in(names: _Images, image_id: ImageId) -> _ImageRow:
    position = names.first(image_id)
    return _ImageRow("") if position is None else names[position][1]


def _images_by_id(rows: Iterator[Any], path: Path) -> _Images:
    images = _Images(key=itemgetter(0))
    for row in rows:
        if not isinstance(row, dict) or not is_image_id(row.get("id")) or not is_name(row.get("file_name")):
            raise DataError(f"{path}: an image is {short(row)}; expected an object with id and file_name")
        images.append((row["id"], _ImageRow(row["file_name"], row.get("height"), row.get("width"))))
    for position in images.repeats():
        image_id, _ = images[position]
        raise DataError(f"{path}: image id {image_id!r} appears twice; expected a unique id per image")
    return images


class _Annotations:
    """The list `annotations`, validated on its own, since images and categories may follow it in the file.

    Attributes:
        png_names: image id and PNG name of each annotated image, in the order of the file.
    """

    def __init__(self, rows: Iterator[Any], path: Path) -> None:
        self.png_names = DiskList[tuple[ImageId, str]](key=itemgetter(0))
        self._path = path
        self._codes: dict[int, int] = {}  # category ids, numbered in order of appearance
        self._counts = array("q")
        self._pending: list[tuple[Any, ...]] = []
        self._blocks = DiskList[SegmentRows]()
        for annotation in rows:
            self._add(annotation)
            if len(self._pending) >= _BLOCK:
                self._finish_block()
        self._finish_block()
        for position in self.png_names.repeats():
            raise self._image_error(self.png_names[position][0], "is annotated twice")

    def _add(self, annotation: Any) -> None:
        image_id, png_name = _annotation_head(annotation, self._path)
        segments = _segment_rows(annotation, self._codes, f"{self._path}: image {image_id!r}")
        self.png_names.append((image_id, png_name))
        self._counts.append(len(segments))
        self._pending += segments

    def _finish_block(self) -> None:
        self._blocks.append(narrowed(np.array(self._pending, SEGMENT_ROW)))
        self._pending = []

    def checked(
        self, images: _Images, categories: CategoryTable, by_name: Mapping[int, int] | None = None
    ) -> PanopticAnnotation:
        """Return the annotation of `images`, in their order; `by_name` is `PanopticAnnotation.ids_by_name`."""
        position_of = np.full(len(images), -1)  # of each image's annotation
        for position, (image_id, _) in enumerate(self.png_names):
            listed = images.first(image_id)
            if listed is None:
                raise self._image_error(image_id, "is annotated but not listed in `images`")
            position_of[listed] = position
        order = position_of[position_of >= 0]
        rows, starts = self._rows_of(order, categories, by_name)
        infos = (
            _image_info(image_id, self.png_names[position][1], row, self._path)
            for position, (image_id, row) in zip(position_of.tolist(), images, strict=True)
            if position >= 0
        )
        pairs = zip(position_of.tolist(), images, strict=True)
        without = ([row.file_name] for position, (_, row) in pairs if position < 0)
        return PanopticAnnotation(
            self._path, categories, JsonRows.of(ImageInfo, infos), rows, starts, JsonRows.of(str, without), by_name
        )

    def _rows_of(
        self, order: npt.NDArray[np.int64], categories: CategoryTable, by_name: Mapping[int, int] | None
    ) -> tuple[SegmentRows, npt.NDArray[np.int64]]:
        """Return the rows of the annotations in this order, and the start of each annotation."""
        counts = np.array(self._counts, np.int64)
        ends = np.cumsum(counts)
        labels = self._labels(ends, categories, by_name)
        starts = np.concatenate([[0], np.cumsum(counts[order])])
        moved_by = np.zeros_like(counts)
        moved_by[order] = starts[:-1] - (ends - counts)[order]
        rows, first = np.empty(starts[-1], joined_type(self._blocks, labels)), 0
        for block in self._blocks:
            numbers = np.arange(first, first + len(block))
            positions = numbers + moved_by[np.searchsorted(ends, numbers, side="right")]
            rows[positions] = block
            rows["label"][positions] = labels[block["label"]]
            first += len(block)
        return rows, starts

    def _labels(
        self, ends: npt.NDArray[np.int64], categories: CategoryTable, by_name: Mapping[int, int] | None
    ) -> npt.NDArray[np.int64]:
        """Return the label of each code."""
        labels = []
        for category_id, code in self._codes.items():
            own_id = category_id if by_name is None else by_name.get(category_id)
            if own_id is None or own_id not in categories:
                image_id, number = self._first_of(code, ends)
                where = f"{self._path}: image {image_id!r}"
                raise (
                    _unknown_category(where, number, category_id)
                    if by_name is None
                    else _unknown_name(where, number, category_id)
                )
            labels.append(categories.label(own_id))
        return np.array(labels, np.int64)

    def _first_of(self, code: int, ends: npt.NDArray[np.int64]) -> tuple[ImageId, int]:
        """Return image id and segment id of the first occurrence of a category code."""
        before = 0
        for block in self._blocks:
            for position in np.flatnonzero(block["label"] == code)[:1].tolist():
                image = int(np.searchsorted(ends, before + position, side="right"))
                return self.png_names[image][0], int(block["id"][position])
            before += len(block)
        raise KeyError(code)

    def _image_error(self, image_id: ImageId, problem: str) -> DataError:
        return DataError(f"{self._path}: image {image_id!r} {problem}; expected one annotation for a listed image")


def _image_info(image_id: ImageId, png_name: str, row: _ImageRow, path: Path) -> tuple[Any, ...]:
    """Return the arguments of an `ImageInfo`."""
    for side, pixels in (("height", row.height), ("width", row.width)):
        if pixels is not None and not is_count(pixels, 1):
            raise DataError(f"{path}: image {image_id!r} has the {side} {pixels!r}; expected pixels, 1 or more")
    return image_id, row.file_name, png_name, row.height, row.width


def _annotation_head(annotation: Any, path: Path) -> tuple[ImageId, str]:
    """Return image id and PNG name."""
    if not isinstance(annotation, dict) or not {"image_id", "file_name", "segments_info"} <= set(annotation):
        raise DataError(
            f"{path}: an annotation is {short(annotation)}; expected image_id, file_name and a list segments_info"
        )
    for key, is_valid, expected in _HEAD:
        if not is_valid(annotation[key]):
            raise DataError(f"{path}: an annotation has the {key} {short(annotation[key])}; expected {expected}")
    return annotation["image_id"], annotation["file_name"]


def _segment_rows(annotation: Mapping[str, Any], codes: dict[int, int], where: str) -> list[tuple[Any, ...]]:
    """Return the values of `SEGMENT_ROW` for each segment, with the code of its category id in place of the label."""
    rows, seen = [], set()
    for segment in annotation["segments_info"]:
        if not isinstance(segment, dict) or not is_count(segment.get("id"), 1) or segment["id"] > MAX_ID:
            raise DataError(f"{where} has the segment {short(segment)}; expected an object with an id 1 to {MAX_ID}")
        number, category_id = segment["id"], segment.get("category_id")
        if number in seen:
            raise DataError(f"{where} has two segments with id {number}; expected a unique id per segment")
        if not is_count(category_id, 0):
            raise _unknown_category(where, number, category_id)
        seen.add(number)
        code = codes.setdefault(category_id, len(codes))
        rows.append((number, code, *_segment_geometry(segment, where), _score(segment, where)))
    return rows


def _unknown_category(where: str, number: int, category_id: Any) -> DataError:
    return DataError(f"{where}: segment {number} has the category_id {category_id!r}; expected an id in `categories`")


def _unknown_name(where: str, number: int, category_id: int) -> DataError:
    return DataError(
        f"{where}: segment {number} has the category_id {category_id}, and `categories` has no name for it that is a "
        "class of the ground truth; classes have other ids there, so they are paired by name; use the names or the ids "
        "of the ground truth"
    )


def _segment_geometry(segment: Mapping[str, Any], where: str) -> tuple[int, tuple[float, ...], bool]:
    """Return area (-1 if missing), bbox (NaN if missing or empty) and the crowd flag."""
    area, bbox, crowd = segment.get("area"), segment.get("bbox"), segment.get("iscrowd", 0)
    has_box = bbox is not None and bbox != []
    box = (np.nan,) * 4 if not has_box else tuple(bbox) if isinstance(bbox, list) else ()
    good = len(box) == 4 and (not has_box or all(map(is_finite, box)))
    if not good or not (area is None or _is_area(area)) or crowd not in (0, 1):
        raise DataError(
            f"{where}: segment {segment['id']} has area {short(area)}, bbox {short(bbox)}, iscrowd {short(crowd)}; "
            "expected a whole number of pixels, [x, y, width, height] and 0 or 1"
        )
    return -1 if area is None else int(area), box, bool(crowd)


def _score(segment: Mapping[str, Any], where: str) -> float:
    """Return the score of a prediction; NaN if missing."""
    score = segment.get("score")
    if not is_score(score):
        raise DataError(f"{where}: segment {segment['id']} has the score {score!r}; expected a number of 0 or more")
    return math.nan if score is None else float(score)


def _is_area(value: Any) -> bool:
    return is_finite(value) and value >= 0 and value == int(value)
