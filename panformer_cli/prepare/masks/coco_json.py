"""Read a COCO detection JSON, however large, and match its annotations with its images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from panformer_cli.data.coco.json_stream import read_members
from panformer_cli.data.coco.json_values import whole_number
from panformer_cli.data.disk_list import DiskList
from panformer_cli.errors import DataError
from panformer_cli.storage.text_files import encoding_of
from panformer_cli.wording import short

_WHAT = "instances JSON"
_IMAGE_KEYS = ("id", "file_name", "height", "width")
_ANNOTATION_KEYS = ("id", "category_id", "iscrowd", "segmentation")


class ListedImage(NamedTuple):
    """A row of `images`.

    Attributes:
        row: `id`, `file_name`, `height` and `width`; the last two are None if missing.
        annotations: Its annotations, each a JSON list on one line: `_ANNOTATION_KEYS`, null if missing, and whether it
            has key points.
    """

    row: dict[str, Any]
    annotations: bytes


@dataclass
class CocoJson:
    """The content of a JSON.

    Attributes:
        images: Rows of `images`, as in `ListedImage`.
        annotations: Image id and line of each annotation, as in `ListedImage`. Both lists are stored on disk, because
            there may be millions.
        problems: A sentence about each row of an image or annotation that has no usable id or file name.
    """

    path: Path
    problems: list[str] = field(default_factory=list)
    images: DiskList[dict[str, Any]] = field(default_factory=lambda: DiskList(key=itemgetter("id")))
    categories: list[dict[str, Any]] = field(default_factory=list)
    annotations: DiskList[tuple[int | str, bytes]] = field(default_factory=lambda: DiskList(key=itemgetter(0)))

    def images_with_annotations(self) -> Iterator[ListedImage]:
        """Yield each image with its annotations, which may be anywhere in the file."""
        for number, row in enumerate(self.images):
            is_first = self.images.first(row["id"]) == number  # a repeated id is rejected later
            lines = [self.annotations[index][1] for index in self.annotations.positions(row["id"])] if is_first else []
            yield ListedImage(row, b"".join(lines))

    def lost_annotations(self) -> Iterator[str]:
        """Yield a sentence about each image id that annotations have but no image.

        Raises:
            DataError: The id is a text in one list and a number in the other.
        """
        seen: set[int | str] = set()
        for image_id, _ in self.annotations:
            if image_id in seen or self.images.first(image_id) is not None:
                continue
            seen.add(image_id)
            other = _of_other_type(image_id)
            if other is not None and self.images.first(other) is not None:
                raise DataError(
                    f"{self.path} has annotations with the image_id {_typed(image_id)}, but `images` has the id "
                    f"{_typed(other)}; expected both as numbers or both as text"
                )
            yield f"{self.path} annotates image {short(image_id)}, which is not in `images`; add a row for it"


def read_coco_json(path: Path, encoding: str | None = None) -> CocoJson:
    """Read a JSON, checking what is needed to match its rows.

    Args:
        path: The JSON.
        encoding: Its encoding if it is not UTF-8.

    Raises:
        DataError: It is not valid JSON, one of its three lists is missing, or a category has no usable id.
    """
    content, missing = CocoJson(path), {"images", "annotations", "categories"}
    for key, items in _members(path, encoding):
        missing.discard(key)
        if key == "images":
            for row in _usable_rows(items, _IMAGE_KEYS[:2], f"{path}, images", content.problems):
                if isinstance(row["file_name"], str):
                    content.images.append({key: row.get(key) for key in _IMAGE_KEYS})
                else:
                    name, number = short(row["file_name"]), short(row["id"])
                    content.problems.append(f"{path}: the file_name of image {number} is {name}; expected text")
        elif key == "categories":
            content.categories.extend(_categories(items, path))
        elif key == "annotations":
            for row in _usable_rows(items, ("image_id",), f"{path}, annotations", content.problems):
                content.annotations.append((row["image_id"], _line(row, path)))
    if missing:
        raise _not_coco(path, missing)
    return content


def read_categories(path: Path, encoding: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of `categories`, without reading what follows them. Arguments and errors as `read_coco_json`."""
    for key, items in _members(path, encoding):
        if key == "categories":
            return _categories(items, path)
    raise _not_coco(path, {"categories"})


def _not_coco(path: Path, missing: set[str]) -> DataError:
    keys = " and no ".join(f"`{key}`" for key in sorted(missing))
    return DataError(f"{path} has no {keys}; expected COCO detection format: images, annotations, categories")


def _members(path: Path, encoding: str | None) -> Iterator[tuple[str, Any]]:
    try:
        encoding = encoding_of(path, encoding)
    except OSError:
        encoding = None  # reading reports it
    return read_members(path, _WHAT, encoding)


def _categories(items: Any, path: Path) -> list[dict[str, Any]]:
    problems: list[str] = []
    rows = list(_usable_rows(items, ("id", "name"), f"{path}, categories", problems))
    if problems:
        raise DataError(problems[0])
    return rows


def _line(row: Mapping[str, Any], path: Path) -> bytes:
    if "segments_info" in row:
        raise DataError(
            f"{path} has segments_info and is a COCO panoptic JSON; expected instance annotations; use panformer "
            "prepare-data custom"
        )
    kept = [*(row.get(key) for key in _ANNOTATION_KEYS), bool(row.get("keypoints"))]
    return json.dumps(kept, separators=(",", ":")).encode() + b"\n"


def _usable_rows(items: Any, keys: Sequence[str], where: str, problems: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a list that are objects with these keys and valid ids; add a sentence about each other one."""
    if not isinstance(items, Iterator):
        raise DataError(f"{where} is {short(items)}; expected a list")
    id_keys = [key for key in ("id", "image_id") if key in keys]
    for number, row in enumerate(items):
        problem = ""
        if not isinstance(row, dict) or not all(key in row for key in keys):
            problem = f"{where}[{number}] is {short(row)}; expected an object with {', '.join(keys)}"
        for key in () if problem else id_keys:
            row[key] = whole_number(row[key])
            if not isinstance(row[key], int | str) or isinstance(row[key], bool):
                problem = f"{where}[{number}]: the {key} is {short(row[key])}; expected a number"
        if problem:
            problems.append(problem)
        else:
            yield row


def _of_other_type(value: int | str) -> int | str | None:
    """Return a number as text, or a text of digits as a number; None for other text."""
    if isinstance(value, int):
        return str(value)
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None


def _typed(value: int | str) -> str:
    return f"{'text' if isinstance(value, str) else 'number'} {short(value)}"
