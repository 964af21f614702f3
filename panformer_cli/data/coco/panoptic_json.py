"""COCO's panoptic JSON: read and checked, of ground truth and of predictions."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.json_stream import read_members
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
"""Segments that are gathered as Python objects before they go into an array."""


class _ImageRow(NamedTuple):
    """What is kept of a row of `images`; height and width are not checked yet."""

    file_name: str
    height: Any = None
    width: Any = None


_Images = DiskList[tuple[ImageId, _ImageRow]]


def read_annotation(path: Path) -> PanopticAnnotation:
    """Read and check a panoptic JSON, an image at a time: memory for what is kept, not for the file.

    Raises:
        DataError: the file is missing, is no JSON or not a panoptic one, or contradicts itself.
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
    """Read and check predictions in COCO's panoptic form, of which only `annotations` is needed.

    categories: those of the ground truth.

    Raises:
        DataError: as `read_annotation`.
    """
    annotations: _Annotations = _read_lists(path, {"annotations": lambda rows: _Annotations(rows, path)})["annotations"]
    images = DiskList(((image_id, _ImageRow(name)) for image_id, name in annotations.png_names), key=itemgetter(0))
    return annotations.checked(images, categories)


def _read_lists(path: Path, parsers: Mapping[str, Callable[[Iterator[Any]], Any]]) -> dict[str, Any]:
    """The lists that are named in `parsers`, each as its parser makes it of the rows, which come one by one."""
    lists = {
        key: parsers[key](value) for key, value in read_members(path) if key in parsers and isinstance(value, Iterator)
    }
    lacking = [key for key in parsers if key not in lists]
    if lacking:
        raise DataError(f"{path} lacks the lists {', '.join(lacking)}; expected a COCO panoptic JSON")
    return lists


def _images_by_id(rows: Iterator[Any], path: Path) -> _Images:
    images = _Images(key=itemgetter(0))
    for row in rows:
        if not isinstance(row, dict) or not is_image_id(row.get("id")) or not is_name(row.get("file_name")):
            raise DataError(f"{path}: an image is {short(row)}; expected an object with id and file_name")
        images.append((row["id"], _ImageRow(row["file_name"], row.get("height"), row.get("width"))))
    for place in images.repeats():
        image_id, _ = images[place]
        raise DataError(f"{path}: image id {image_id!r} appears twice; expected an id of its own for every image")
    return images


class _Annotations:
    """The list `annotations`, checked as far as it can be by itself: images and categories may follow it in the file.

    png_names: of every annotated image by its id, in the order of the file.
    """

    def __init__(self, rows: Iterator[Any], path: Path) -> None:
        self.png_names = DiskList[tuple[ImageId, str]](key=itemgetter(0))
        self._path = path
        self._codes: dict[int, int] = {}  # category ids, numbered as they are met
        self._counts = array("q")
        self._pending: list[tuple[Any, ...]] = []
        self._blocks = DiskList[SegmentRows]()
        for annotation in rows:
            self._add(annotation)
            if len(self._pending) >= _BLOCK:
                self._finish_block()
        self._finish_block()
        for place in self.png_names.repeats():
            raise self._misplaced(self.png_names[place][0], "is annotated twice")

    def _add(self, annotation: Any) -> None:
        image_id, png_name = _annotation_head(annotation, self._path)
        segments = _segment_rows(annotation, self._codes, f"{self._path}: image {image_id!r}")
        self.png_names.append((image_id, png_name))
        self._counts.append(len(segments))
        self._pending += segments

    def _finish_block(self) -> None:
        self._blocks.append(narrowed(np.array(self._pending, SEGMENT_ROW)))
        self._pending = []

    def checked(self, images: _Images, categories: CategoryTable) -> PanopticAnnotation:
        """The annotation of `images`, in their order."""
        place_of = np.full(len(images), -1)  # of each image's annotation
        for place, (image_id, _) in enumerate(self.png_names):
            listed = images.first(image_id)
            if listed is None:
                raise self._misplaced(image_id, "is annotated but not listed in `images`")
            place_of[listed] = place
        order = place_of[place_of >= 0]
        rows, starts = self._rows_of(order, categories)
        infos = (
            _image_info(image_id, self.png_names[place][1], row, self._path)
            for place, (image_id, row) in zip(place_of.tolist(), images, strict=True)
            if place >= 0
        )
        without = ([row.file_name] for place, (_, row) in zip(place_of.tolist(), images, strict=True) if place < 0)
        return PanopticAnnotation(
            self._path, categories, JsonRows.of(ImageInfo, infos), rows, starts, JsonRows.of(str, without)
        )

    def _rows_of(
        self, order: npt.NDArray[np.int64], categories: CategoryTable
    ) -> tuple[SegmentRows, npt.NDArray[np.int64]]:
        """The rows of the annotations in this order, and where those of each start."""
        counts = np.array(self._counts, np.int64)
        ends = np.cumsum(counts)
        labels = self._labels(ends, categories)
        starts = np.concatenate([[0], np.cumsum(counts[order])])
        moved_by = np.zeros_like(counts)
        moved_by[order] = starts[:-1] - (ends - counts)[order]
        rows, first = np.empty(starts[-1], joined_type(self._blocks, labels)), 0
        for block in self._blocks:
            numbers = np.arange(first, first + len(block))
            places = numbers + moved_by[np.searchsorted(ends, numbers, side="right")]
            rows[places] = block
            rows["label"][places] = labels[block["label"]]
            first += len(block)
        return rows, starts

    def _labels(self, ends: npt.NDArray[np.int64], categories: CategoryTable) -> npt.NDArray[np.int64]:
        """The label of each code."""
        for category_id, code in self._codes.items():
            if category_id not in categories:
                image_id, number = self._first_of(code, ends)
                raise _unknown_category(f"{self._path}: image {image_id!r}", number, category_id)
        return np.array([categories.label(category_id) for category_id in self._codes], np.int64)

    def _first_of(self, code: int, ends: npt.NDArray[np.int64]) -> tuple[ImageId, int]:
        """Image and segment id where a category id is met first."""
        before = 0
        for block in self._blocks:
            for place in np.flatnonzero(block["label"] == code)[:1].tolist():
                image = int(np.searchsorted(ends, before + place, side="right"))
                return self.png_names[image][0], int(block["id"][place])
            before += len(block)
        raise KeyError(code)

    def _misplaced(self, image_id: ImageId, problem: str) -> DataError:
        return DataError(f"{self._path}: image {image_id!r} {problem}; expected one annotation for a listed image")


def _image_info(image_id: ImageId, png_name: str, row: _ImageRow, path: Path) -> tuple[Any, ...]:
    """What makes an `ImageInfo`."""
    for side, pixels in (("height", row.height), ("width", row.width)):
        if pixels is not None and not is_count(pixels, 1):
            raise DataError(f"{path}: image {image_id!r} has the {side} {pixels!r}; expected pixels, 1 or more")
    return image_id, row.file_name, png_name, row.height, row.width


def _annotation_head(annotation: Any, path: Path) -> tuple[ImageId, str]:
    """Image id and PNG name."""
    if (
        not isinstance(annotation, dict)
        or not is_image_id(annotation.get("image_id"))
        or not is_name(annotation.get("file_name"))
        or not isinstance(annotation.get("segments_info"), list)
    ):
        raise DataError(
            f"{path}: an annotation is {short(annotation)}; expected image_id, file_name and a list segments_info"
        )
    return annotation["image_id"], annotation["file_name"]


def _segment_rows(annotation: Mapping[str, Any], codes: dict[int, int], where: str) -> list[tuple[Any, ...]]:
    """What makes rows of `SEGMENT_ROW`, but for the label: its place has the code of the category id in `codes`."""
    rows, seen = [], set()
    for segment in annotation["segments_info"]:
        if not isinstance(segment, dict) or not is_count(segment.get("id"), 1) or segment["id"] > MAX_ID:
            raise DataError(f"{where} has the segment {short(segment)}; expected an object with an id 1 to {MAX_ID}")
        number, category_id = segment["id"], segment.get("category_id")
        if number in seen:
            raise DataError(f"{where} has two segments of id {number}; expected an id of its own for each")
        if not is_count(category_id, 0):
            raise _unknown_category(where, number, category_id)
        seen.add(number)
        code = codes.setdefault(category_id, len(codes))
        rows.append((number, code, *_segment_geometry(segment, where), _score(segment, where)))
    return rows


def _unknown_category(where: str, number: int, category_id: Any) -> DataError:
    return DataError(f"{where}: segment {number} has the category_id {category_id!r}; expected an id of `categories`")


def _segment_geometry(segment: Mapping[str, Any], where: str) -> tuple[int, tuple[float, ...], bool]:
    """Area (-1: not given), bbox (NaN: not given) and the crowd flag."""
    area, bbox, crowd = segment.get("area"), segment.get("bbox"), segment.get("iscrowd", 0)
    box = (np.nan,) * 4 if bbox is None else tuple(bbox) if isinstance(bbox, list) else ()
    good = len(box) == 4 and (bbox is None or all(map(is_finite, box)))
    if not good or not (area is None or _is_area(area)) or crowd not in (0, 1):
        raise DataError(
            f"{where}: segment {segment['id']} has area {short(area)}, bbox {short(bbox)}, iscrowd {short(crowd)}; "
            "expected a whole number of pixels, [x, y, width, height] and 0 or 1"
        )
    return -1 if area is None else int(area), box, bool(crowd)


def _score(segment: Mapping[str, Any], where: str) -> float:
    """The confidence of a prediction, NaN where none is given."""
    score = segment.get("score")
    if not is_score(score):
        raise DataError(f"{where}: segment {segment['id']} has the score {score!r}; expected a number of 0 or more")
    return math.nan if score is None else float(score)


def _is_area(value: Any) -> bool:
    return is_finite(value) and value >= 0 and value == int(value)
