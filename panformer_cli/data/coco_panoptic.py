"""COCO panoptic annotation, read straight from the panoptic JSON and its PNGs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.images import read_bytes, read_image
from panformer_cli.data.layout import find_split
from panformer_cli.data.panoptic_png import MAX_ID, read_panoptic_png, segment_ids
from panformer_cli.data.structures import IdMap, PanopticMap, Sample, Segment
from panformer_cli.errors import DataError
from panformer_cli.files import name_inside

# One row a segment. Area -1 and a bbox of NaN stand for what the JSON does not give.
_ROW = np.dtype([("id", "i4"), ("label", "i4"), ("area", "i8"), ("bbox", "f8", (4,)), ("is_crowd", "?")])


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
    """A checked panoptic JSON, kept as flat arrays: about 50 bytes a segment, shared by forked worker processes.

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
            Segment(number, self.categories.by_label(label).id, area, tuple(bbox), is_crowd)
            for number, label, area, bbox, is_crowd in rows
        )


class CocoPanoptic:
    """A split of a data set in COCO's panoptic form: a sequence of `Sample`.

    root, split: as `layout.find_split`, which says what lies where.
    skip_unannotated: leave out images that the JSON lists but does not annotate, and say so in `skipped`.

    Attributes:
        skipped: one sentence for each image that was left out.

    Raises:
        DataError: the folder or the JSON cannot be used, holds no annotated image, or lists one that it does not
            annotate. Reading an item raises it when the files of that image are missing or damaged, or do not agree
            with each other or with the JSON.
    """

    def __init__(self, root: Path, split: str, skip_unannotated: bool = False) -> None:
        self.layout = find_split(root, split)
        self._annotation = read_annotation(self.layout.annotation)
        without = self._annotation.unannotated
        self.skipped = [f"{self.layout.annotation} lists {name} but does not annotate it" for name in without]
        if not self._annotation.images:
            raise DataError(f"{self.layout.annotation} annotates no image; expected at least one")
        if without and not skip_unannotated:
            raise DataError(
                f"{self.layout.annotation} lists {len(without)} images that it does not annotate, first {without[0]}; "
                "annotate them or take them out of `images` (training leaves them out with data.skip_bad_images=true)"
            )

    @property
    def categories(self) -> CategoryTable:
        return self._annotation.categories

    def __len__(self) -> int:
        return len(self._annotation.images)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        info = self.image_info(index)
        annotation = self.annotation(index)
        path = self.image_path(index)
        image = read_image(path)
        if image.shape[:2] != annotation.ids.shape:
            raise DataError(
                f"{path} is {_size(image.shape)} but its panoptic PNG {self.png_path(index)} is "
                f"{_size(annotation.ids.shape)} (width x height); expected equal sizes"
            )
        return Sample(image, annotation, info.id, info.file_name)

    def image_info(self, index: int) -> ImageInfo:
        """Id, file names and size of an image, without opening a file."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._annotation.images[index]

    def image_path(self, index: int) -> Path:
        return name_inside(self.layout.images, self.image_info(index).file_name, str(self.layout.annotation))

    def png_path(self, index: int) -> Path:
        return name_inside(self.layout.pngs, self.image_info(index).png_name, str(self.layout.annotation))

    def annotation(self, index: int) -> PanopticMap:
        """The ground truth of an image, checked against the JSON; the image itself is not opened."""
        info, path = self.image_info(index), self.png_path(index)
        ids = read_panoptic_png(path)
        for found, expected in zip(ids.shape, (info.height, info.width), strict=True):
            if expected is not None and found != expected:
                raise DataError(
                    f"{path} is {_size(ids.shape)} but {self.layout.annotation} gives "
                    f"{_size((info.height, info.width))} (width x height); expected equal sizes"
                )
        segments = self._annotation.segments(index)
        self._check_ids(path, ids, segments)
        return PanopticMap(ids, tuple(_measured(segment, ids) for segment in segments))

    def _check_ids(self, path: Path, ids: IdMap, segments: Iterable[Segment]) -> None:
        drawn, listed = segment_ids(ids), {segment.id for segment in segments}
        if drawn != listed:
            differences = []
            if drawn - listed:
                differences.append(f"{_some(drawn - listed)} only in the PNG")
            if listed - drawn:
                differences.append(f"{_some(listed - drawn)} only in the segments_info")
            raise DataError(
                f"{path} and {self.layout.annotation} disagree: segment ids {' and '.join(differences)}; "
                "expected the same ids in both (0 in the PNG is void)"
            )


def read_annotation(path: Path) -> PanopticAnnotation:
    """Read and check a panoptic JSON.

    Raises:
        DataError: the file is missing, is no JSON or not a panoptic one, or contradicts itself.
    """
    content = _read_json(path)
    categories = CategoryTable.from_coco(content["categories"], str(path))
    images = _images_by_id(content["images"], path)
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


def _read_json(path: Path) -> dict[str, Any]:
    data = read_bytes(path, "panoptic JSON")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON, or is cut short: {error}; expected a COCO panoptic JSON") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}; expected an object, as in a COCO panoptic JSON")
    lacking = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
    if lacking:
        raise DataError(f"{path} lacks the lists {', '.join(lacking)}; expected a COCO panoptic JSON")
    return content


def _images_by_id(rows: list[Any], path: Path) -> dict[int | str, Mapping[str, Any]]:
    images: dict[int | str, Mapping[str, Any]] = {}
    for row in rows:
        if not isinstance(row, dict) or not _is_id(row.get("id")) or not _is_name(row.get("file_name")):
            raise DataError(f"{path}: an image is {_short(row)}; expected an object with id and file_name")
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
            f"{path}: an annotation is {_short(annotation)}; expected image_id, file_name and a list segments_info"
        )
    return annotation["image_id"], annotation["file_name"]


def _segment_rows(annotation: Mapping[str, Any], categories: CategoryTable, where: str) -> list[tuple[Any, ...]]:
    rows, seen = [], set()
    for segment in annotation["segments_info"]:
        if not isinstance(segment, dict) or not _is_count(segment.get("id"), 1) or segment["id"] > MAX_ID:
            raise DataError(f"{where} has the segment {_short(segment)}; expected an object with an id 1 to {MAX_ID}")
        number, category_id = segment["id"], segment.get("category_id")
        if number in seen:
            raise DataError(f"{where} has two segments of id {number}; expected an id of its own for each")
        if not _is_count(category_id, 0) or category_id not in categories:
            raise DataError(
                f"{where}: segment {number} has the category_id {category_id!r}; expected an id of `categories`"
            )
        seen.add(number)
        rows.append((number, categories.label(category_id), *_segment_geometry(segment, where)))
    return rows


def _segment_geometry(segment: Mapping[str, Any], where: str) -> tuple[int, tuple[float, ...], bool]:
    """Area (-1: not given), bbox (NaN: not given) and the crowd flag."""
    area, bbox, crowd = segment.get("area"), segment.get("bbox"), segment.get("iscrowd", 0)
    box = (np.nan,) * 4 if bbox is None else tuple(bbox) if isinstance(bbox, list) else ()
    good = len(box) == 4 and (bbox is None or all(_is_finite(number) for number in box))
    if not good or not (area is None or _is_finite(area)) or crowd not in (0, 1):
        raise DataError(
            f"{where}: segment {segment['id']} has area {area!r}, bbox {bbox!r}, iscrowd {crowd!r}; "
            "expected pixels, [x, y, width, height] and 0 or 1"
        )
    return -1 if area is None else int(area), box, bool(crowd)


def _measured(segment: Segment, ids: IdMap) -> Segment:
    """The segment with area and bbox: the annotation's, or where it gives none, those of its pixels."""
    if segment.area >= 0 and segment.bbox[0] == segment.bbox[0]:  # NaN differs from itself
        return segment
    mask = ids == segment.id
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    size = float(columns[-1] - columns[0] + 1), float(rows[-1] - rows[0] + 1)
    bbox = segment.bbox if segment.bbox[0] == segment.bbox[0] else (float(columns[0]), float(rows[0]), *size)
    return replace(segment, area=segment.area if segment.area >= 0 else int(mask.sum()), bbox=bbox)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_count(value: Any, least: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _some(ids: Iterable[int]) -> str:
    ordered = sorted(ids)
    return ", ".join(map(str, ordered[:8])) + (f" and {len(ordered) - 8} more" if len(ordered) > 8 else "")


def _size(shape: tuple[int | None, ...]) -> str:
    height, width = ("?" if side is None else str(side) for side in shape[:2])
    return f"{width}x{height}"
