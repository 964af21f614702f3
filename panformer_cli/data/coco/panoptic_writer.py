"""Writes COCO's panoptic JSON: its rows, and the file."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.json_stream import write_list
from panformer_cli.data.structures import IdMap, PanopticMap, Segment
from panformer_cli.storage.files import atomic_write


def segments_of(ids: IdMap, category_of_id: Mapping[int, int], crowd_ids: Collection[int] = ()) -> tuple[Segment, ...]:
    """Return the segments of a map in ascending id, with area and box of their pixels.

    It works on runs of equal ids in each row: thousands instead of hundreds of thousands of pixels.

    Args:
        ids: (H, W) int, 0 is void.
        category_of_id: category id of each segment id; ids without a pixel give no segment.
        crowd_ids: the segment ids that are crowds.

    Raises:
        KeyError: the map contains an id that is not in `category_of_id`.
    """
    width = ids.shape[1]
    if not ids.size:
        return ()
    pixels = ids.reshape(-1)
    new_run = np.empty(ids.size, np.bool_)
    np.not_equal(pixels[1:], pixels[:-1], out=new_run[1:])
    new_run[::width] = True
    starts = np.flatnonzero(new_run)
    lengths = np.diff(starts, append=ids.size)
    values = pixels[starts]
    order = np.argsort(values)  # groups the runs of an id
    values, starts, lengths = values[order], starts[order], lengths[order]
    rows, lefts = np.divmod(starts, width)
    first = np.flatnonzero(np.append(True, values[1:] != values[:-1]))  # first run of each id
    x, y = np.minimum.reduceat(lefts, first), np.minimum.reduceat(rows, first)
    right, bottom = np.maximum.reduceat(lefts + lengths, first), np.maximum.reduceat(rows, first) + 1
    boxes = np.stack([x, y, right - x, bottom - y], axis=1).tolist()
    areas = np.add.reduceat(lengths, first).tolist()
    return tuple(
        Segment(segment_id, category_of_id[segment_id], area, tuple(box), segment_id in crowd_ids)
        for segment_id, area, box in zip(values[first].tolist(), areas, boxes, strict=True)
        if segment_id != 0
    )


def segment_row(segment: Segment, categories: CategoryTable | None = None) -> dict[str, Any]:
    """Return a row of `segments_info`: id, category_id, area, bbox, iscrowd, and `score` if the segment has one.

    With `categories` the row also has `category_name` and `isthing`, so that a reader needs no category table.
    """
    row: dict[str, Any] = {
        "id": segment.id,
        "category_id": segment.category_id,
        "area": segment.area,
        "bbox": [int(value) if float(value).is_integer() else float(value) for value in segment.bbox],
        "iscrowd": int(segment.is_crowd),
    }
    if segment.score is not None:
        row["score"] = float(segment.score)
    if categories is not None:
        category = categories.by_id(segment.category_id)
        row |= {"category_name": category.name, "isthing": int(category.is_thing)}
    return row


def annotation_row(
    image_id: int | str, png_name: str, panoptic: PanopticMap, categories: CategoryTable | None = None
) -> dict[str, Any]:
    """Return a row of `annotations`.

    Args:
        image_id: dataset id of the image.
        png_name: of its PNG, relative to the PNG folder.
        panoptic: its segments.
        categories: as in `segment_row`.
    """
    return {
        "image_id": image_id,
        "file_name": png_name,
        "segments_info": [segment_row(segment, categories) for segment in panoptic.segments],
    }


def panoptic_json(
    images: Iterable[Mapping[str, Any]],
    annotations: Iterable[Mapping[str, Any]],
    categories: CategoryTable,
    info: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of a COCO panoptic JSON.

    Args:
        images: rows `{"id", "file_name", "height", "width"}`.
        annotations: rows of `annotation_row`.
        categories: the category table.
        info: description of the file by key; omitted if empty.
    """
    content: dict[str, Any] = {"info": dict(info)} if info else {}
    content["images"] = [dict(row) for row in images]
    content["annotations"] = [dict(row) for row in annotations]
    content["categories"] = categories.to_coco()
    return content


def write_panoptic_json(
    path: Path,
    images: Iterable[Mapping[str, Any]],
    annotations: Iterable[Mapping[str, Any]],
    categories: CategoryTable,
    info: Mapping[str, Any],
) -> None:
    """Write a COCO panoptic JSON atomically and row by row, to save memory; arguments as `panoptic_json`.

    Raises:
        PanformerError: as `files.atomic_write`.
    """
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"info": dict(info), "categories": categories.to_coco()}).removesuffix("}"))
        for key, rows in (("images", images), ("annotations", annotations)):
            file.write(f', "{key}": ')
            write_list(file, rows)
        file.write("}")
