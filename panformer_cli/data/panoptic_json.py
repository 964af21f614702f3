"""COCO's panoptic JSON: read and checked, of ground truth and of predictions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.images import read_bytes
from panformer_cli.data.panoptic_png import MAX_ID
from panformer_cli.data.structures import Segment
from panformer_cli.data.wording import short
from panformer_cli.errors import DataError

# One row a segment. Area -1, a bbox of NaN and a score of NaN stand for what the JSON does not give.
_ROW = np.dtype(
    [("id", "i4"), ("label", "i4"), ("area", "i8"), ("bbox", "f8", (4,)), ("is_crowd", "?"), ("score", "f8")]
)

_LARGEST = 2**53
"""Of the numbers in an annotation: up to here a float holds every whole one, and int64 any sum of them."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What the JSON says about an annotated image.

    file_name: of the image, relative to the folder of images.
    png_name: of its panoptic PNG, relative to the folder of PNGs.
    height, width: pixels; None where the JSON gives none.
    """

    id: int | str
    file_name: str
    png_name: str
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class PanopticAnnotation:
    """A checked panoptic JSON, kept as flat arrays: 57 bytes a segment, shared by forked worker processes.

    images: those that have an annotation, in the order of the JSON.
    rows, starts: the segments of image i are rows starts[i] .. starts[i + 1].
    unannotated: file names of the images that the JSON lists but does not annotate.
    """

    path: Path
    categories: CategoryTable
    images: tuple[ImageInfo, ...]
    rows: npt.NDArray[np.void]
    starts: npt.NDArray[np.int64]
    unannotated: tuple[str, ...] = ()

    def segments(self, index: int) -> tuple[Segment, ...]:
        """The segments of an image; area -1 and bbox NaN where the JSON gives none."""
        rows = self.rows[self.starts[index] : self.starts[index + 1]].tolist()
        return tuple(
            Segment(number, self.categories.by_label(label).id, area, tuple(bbox), is_crowd, _or_none(score))
            for number, label, area, bbox, is_crowd, score in rows
        )


def read_annotation(path: Path) -> PanopticAnnotation:
    """Read and check a panoptic JSON.

    Raises:
        DataError: the file is missing, is no JSON or not a panoptic one, or contradicts itself.
    """
    content = _read_json(path, ("images", "annotations", "categories"))
    categories = CategoryTable.from_coco(content["categories"], str(path))
    return _annotation_of(content, _images_by_id(content["images"], path), categories, path)


def read_predictions(path: Path, categories: CategoryTable) -> PanopticAnnotation:
    """Read and check predictions in COCO's panoptic form, of which only `annotations` is needed.

    categories: those of the ground truth.

    Raises:
        DataError: as `read_annotation`.
    """
    content = _read_json(path, ("annotations",))
    heads = [_annotation_head(annotation, path) for annotation in content["annotations"]]
    images = {image_id: {"id": image_id, "file_name": png_name} for image_id, png_name in heads}
    return _annotation_of(content, images, categories, path)


def _annotation_of(
    content: dict[str, Any], images: Mapping[int | str, Mapping[str, Any]], categories: CategoryTable, path: Path
) -> PanopticAnnotation:
    annotated: dict[int | str, tuple[str, list[tuple[Any, ...]]]] = {}
    for annotation in content["annotations"]:
        image_id, png_name = _annotation_head(annotation, path)
        if image_id not in images or image_id in annotated:
            problem = "is annotated twice" if image_id in annotated else "is annotated but not listed in `images`"
            raise DataError(f"{path}: image {image_id!r} {problem}; expected one annotation for a listed image")
        annotated[image_id] = (png_name, _segment_rows(annotation, categories, f"{path}: image {image_id!r}"))
    kept = [image_id for image_id in images if image_id in annotated]
    unannotated = tuple(str(row.get("file_name", number)) for number, row in images.items() if number not in annotated)
    return PanopticAnnotation(
        path,
        categories,
        tuple(_image_info(images[image_id], annotated[image_id][0], path) for image_id in kept),
        np.array([row for image_id in kept for row in annotated[image_id][1]], _ROW),
        np.cumsum([0] + [len(annotated[image_id][1]) for image_id in kept], dtype=np.int64),
        unannotated,
    )


def _read_json(path: Path, lists: Sequence[str]) -> dict[str, Any]:
    data = read_bytes(path, "panoptic JSON")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON, or is cut short: {error}; expected a COCO panoptic JSON") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}; expected an object, as in a COCO panoptic JSON")
    lacking = [key for key in lists if not isinstance(content.get(key), list)]
    if lacking:
        raise DataError(f"{path} lacks the lists {', '.join(lacking)}; expected a COCO panoptic JSON")
    return content


def _images_by_id(rows: list[Any], path: Path) -> dict[int | str, Mapping[str, Any]]:
    images: dict[int | str, Mapping[str, Any]] = {}
    for row in rows:
        if not isinstance(row, dict) or not _is_id(row.get("id")) or not _is_name(row.get("file_name")):
            raise DataError(f"{path}: an image is {short(row)}; expected an object with id and file_name")
        if row["id"] in images:
            raise DataError(f"{path}: image id {row['id']!r} appears twice; expected an id of its own for every image")
        images[row["id"]] = row
    return images


def _image_info(row: Mapping[str, Any], png_name: str, path: Path) -> ImageInfo:
    for side in ("height", "width"):
        if row.get(side) is not None and not _is_count(row[side], 1):
            raise DataError(f"{path}: image {row['id']!r} has the {side} {row[side]!r}; expected pixels, 1 or more")
    return ImageInfo(row["id"], row["file_name"], png_name, row.get("height"), row.get("width"))


def _annotation_head(annotation: Any, path: Path) -> tuple[int | str, str]:
    """Image id and PNG name."""
    if (
        not isinstance(annotation, dict)
        or not _is_id(annotation.get("image_id"))
        or not _is_name(annotation.get("file_name"))
        or not isinstance(annotation.get("segments_info"), list)
    ):
        raise DataError(
            f"{path}: an annotation is {short(annotation)}; expected image_id, file_name and a list segments_info"
        )
    return annotation["image_id"], annotation["file_name"]


def _segment_rows(annotation: Mapping[str, Any], categories: CategoryTable, where: str) -> list[tuple[Any, ...]]:
    rows, seen = [], set()
    for segment in annotation["segments_info"]:
        if not isinstance(segment, dict) or not _is_count(segment.get("id"), 1) or segment["id"] > MAX_ID:
            raise DataError(f"{where} has the segment {short(segment)}; expected an object with an id 1 to {MAX_ID}")
        number, category_id = segment["id"], segment.get("category_id")
        if number in seen:
            raise DataError(f"{where} has two segments of id {number}; expected an id of its own for each")
        if not _is_count(category_id, 0) or category_id not in categories:
            raise DataError(
                f"{where}: segment {number} has the category_id {category_id!r}; expected an id of `categories`"
            )
        seen.add(number)
        rows.append((number, categories.label(category_id), *_segment_geometry(segment, where), _score(segment, where)))
    return rows


def _segment_geometry(segment: Mapping[str, Any], where: str) -> tuple[int, tuple[float, ...], bool]:
    """Area (-1: not given), bbox (NaN: not given) and the crowd flag."""
    area, bbox, crowd = segment.get("area"), segment.get("bbox"), segment.get("iscrowd", 0)
    box = (np.nan,) * 4 if bbox is None else tuple(bbox) if isinstance(bbox, list) else ()
    good = len(box) == 4 and (bbox is None or all(_is_finite(number) for number in box))
    if not good or not (area is None or _is_area(area)) or crowd not in (0, 1):
        raise DataError(
            f"{where}: segment {segment['id']} has area {short(area)}, bbox {short(bbox)}, iscrowd {short(crowd)}; "
            "expected a whole number of pixels, [x, y, width, height] and 0 or 1"
        )
    return -1 if area is None else int(area), box, bool(crowd)


def _score(segment: Mapping[str, Any], where: str) -> float:
    """The confidence of a prediction, NaN where none is given."""
    score = segment.get("score")
    if score is not None and not (_is_finite(score) and score >= 0):
        raise DataError(f"{where}: segment {segment['id']} has the score {score!r}; expected a number of 0 or more")
    return math.nan if score is None else float(score)


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else number


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= _LARGEST  # false of NaN


def _is_area(value: Any) -> bool:
    return _is_finite(value) and value >= 0 and value == int(value)


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_name(value: Any) -> bool:
    """Whether a file may be called so; JSON can also write halves of characters, which no file system takes."""
    return isinstance(value, str) and bool(value) and not any("\ud800" <= mark <= "\udfff" for mark in value)


def _is_count(value: Any, least: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
