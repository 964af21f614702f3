"""A small data set in COCO's panoptic format, written with only Pillow and json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

CATEGORIES = [
    {"id": 7, "name": "box", "isthing": 1},
    {"id": 3, "name": "ball", "isthing": 1},
    {"id": 200, "name": "sky", "isthing": 0},
]
BOX, BALL, SKY = 7, 3, 200


def colors(ids: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Return ids as colors: id = R + 256 G + 65536 B."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def scene(number: int, height: int = 40, width: int = 60) -> tuple[npt.NDArray[np.int32], list[dict[str, Any]]]:
    """Return a map with sky (id 300), a box (70000 + number), a crowd of balls (5) and void; and its segments_info."""
    ids = np.zeros((height, width), np.int32)
    ids[: height // 2] = 300
    ids[5:15, 10 : 30 + number] = 70000 + number
    ids[25:30, 40:50] = 5
    segments = [
        segment_info(ids, 300, SKY),
        segment_info(ids, 70000 + number, BOX),
        {**segment_info(ids, 5, BALL), "iscrowd": 1},
    ]
    return ids, segments


def segment_info(ids: npt.NDArray[np.int32], number: int, category_id: int) -> dict[str, Any]:
    rows, columns = np.nonzero(ids == number)
    left, top = int(columns.min()), int(rows.min())
    bbox = [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1]
    return {"id": number, "category_id": category_id, "iscrowd": 0, "bbox": bbox, "area": len(rows)}


def write_coco(root: Path, images: int = 3, split: str = "val", first: int = 0) -> Path:
    """Write `images` scenes, numbered from `first`, and return the path of the JSON.

    Image k has gray level 10 + 20 k, and the id 100 + k.
    """
    (root / "images" / split).mkdir(parents=True)
    pngs = root / "annotations" / f"panoptic_{split}"
    pngs.mkdir(parents=True)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": CATEGORIES}
    for number in range(first, first + images):
        ids, segments = scene(number)
        height, width = ids.shape
        Image.new("RGB", (width, height), (10 + 20 * number,) * 3).save(root / "images" / split / f"{number}.png")
        Image.fromarray(colors(ids)).save(pngs / f"{number}.mask.png")
        image = {"id": 100 + number, "file_name": f"{number}.png", "height": height, "width": width}
        content["images"].append(image)
        content["annotations"].append(
            {"image_id": 100 + number, "file_name": f"{number}.mask.png", "segments_info": segments}
        )
    annotation = root / "annotations" / f"panoptic_{split}.json"
    annotation.write_text(json.dumps(content))
    return annotation
