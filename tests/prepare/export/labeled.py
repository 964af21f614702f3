"""A data set with segments that are hard to express in label formats, and plain ways to read labels back.

Written with only Pillow and json; polygons are filled by Pillow or by a loop over pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.prepare.convert import ConvertOptions
from panformer_cli.prepare.export.export import ExportedSplit, ExportOptions, export
from panformer_cli.prepare.export.inputs import open_truth
from panformer_cli.prepare.export.label_format import LabelFormat
from panformer_cli.prepare.export.labeled_image import LabeledImage, labeled_image
from panformer_cli.prepare.source import Source
from panformer_cli.reporting import SilentReporter
from tests.data.coco.coco_files import colors, segment_info

HEIGHT, WIDTH = 18, 24
CATEGORIES: list[dict[str, Any]] = [
    {"id": 9, "name": 'car, "red" & <big>', "isthing": 1, "color": [200, 0, 16]},
    {"id": 2, "name": "l'été 日本", "isthing": 1},
    {"id": 30, "name": "no", "isthing": 0},
    {"id": 31, "name": "sky 2", "isthing": 0, "color": [1, 2, 3]},
    {"id": 40, "name": "unused", "isthing": 1},
]
CAR, SUMMER, NO, SKY = 9, 2, 30, 31
OPTIONS = ExportOptions()

Mask = npt.NDArray[np.bool_]
Found = tuple[str, bool, bytes]
"""Class name, whether it is a crowd, and the mask of a segment."""


def hard_map() -> tuple[npt.NDArray[np.int32], list[dict[str, Any]]]:
    """Return segment ids, (18, 24), and segments_info."""
    ids = np.full((HEIGHT, WIDTH), 300, np.int32)  # stuff around everything, up to the edges
    ids[2:9, 2:9] = 70000  # with a hole,
    ids[4:7, 4:7] = 300  # through which the stuff is seen,
    ids[5, 5] = 7  # and in which there is an object of one pixel
    ids[0, 0] = ids[HEIGHT - 1, WIDTH - 1] = 12  # two parts of one pixel each, in corners
    ids[2:5, 11:14] = 20  # two touching objects
    ids[2:5, 14:17] = 21
    for step in range(5):  # pixels that touch only at corners
        ids[10 + step, 2 + step] = 30
        ids[14 - step, 9 + step] = 31
    ids[14:17, 15:19] = ids[10:12, 20:23] = 40  # a crowd in two parts
    ids[7:13, 15:18] = 0  # void, at whose corner the crowd's part begins
    ids[12, 18] = 0
    ids[17, 4:9] = 50  # other stuff, at the edge
    categories = {300: NO, 70000: CAR, 7: SUMMER, 12: CAR, 20: CAR, 21: CAR, 30: SUMMER, 31: SUMMER, 40: CAR, 50: SKY}
    rows = [segment_info(ids, number, category) for number, category in categories.items()]
    return ids, [{**row, "iscrowd": int(row["id"] == 40)} for row in rows]


def write_set(root: Path, names: Sequence[str] = ("a.png", "b/c d.png"), split: str = "val", score: float = 0) -> Path:
    """Write images with `hard_map`, the second one mirrored, and return the panoptic JSON; ids from 101.

    score: The score of the first segment; the others have 0.01 more each. 0 for none.
    """
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": CATEGORIES}
    ids, rows = hard_map()
    for number, name in enumerate(names):
        drawn = ids if number % 2 == 0 else ids[:, ::-1]
        segments = [{**row, **segment_info(drawn, row["id"], row["category_id"])} for row in rows]
        for segment, row in zip(segments, rows, strict=True):
            segment["iscrowd"] = row["iscrowd"]
        if score:
            segments = [{**row, "score": round(score + index / 100, 2)} for index, row in enumerate(segments)]
        image, png = root / "images" / split / name, f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (10 * number, 90, 200)).save(image)
        (root / "annotations" / f"panoptic_{split}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(colors(drawn)).save(root / "annotations" / f"panoptic_{split}" / png)
        content["images"].append({"id": 101 + number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        content["annotations"].append({"image_id": 101 + number, "file_name": png, "segments_info": segments})
    path = root / "annotations" / f"panoptic_{split}.json"
    path.write_text(json.dumps(content))
    return path


def disc(hole: float = 0) -> LabeledImage:
    """Return an image with one object, a disc of about 1000 pixels with a hole of this radius in pixels."""
    y, x = np.mgrid[:40, :50] + 0.5
    squared = (x - 30) ** 2 + (y - 20) ** 2
    ids = ((squared < 18**2) & (squared >= hole**2)).astype(np.int32)
    table = CategoryTable([Category(1, "disc", True)])
    return labeled_image(1, "a.png", PanopticMap(ids, (Segment(1, 1, 0, (0, 0, 0, 0)),)), table)


def exported(label_format: LabelFormat, folder: Path, **names: Any) -> ExportedSplit:
    """Write a set to `folder/in`, export it to `folder/out`, and return what was written."""
    write_set(folder / "in", **names)
    (split,) = export(open_truth(folder / "in"), label_format, folder / "out", OPTIONS, SilentReporter())
    return split


def masks_of(root: Path, split: str = "val") -> list[list[Found]]:
    """Return the segments of each image of a data set, sorted; images by file name."""
    data = CocoPanoptic(root, split)
    images = sorted(range(len(data)), key=lambda index: data.image_info(index).file_name)
    return [_found(data, index) for index in images]


def _found(data: CocoPanoptic, index: int) -> list[Found]:
    annotation = data.annotation(index)
    return sorted(
        (data.categories.by_id(row.category_id).name, row.is_crowd, (annotation.ids == row.id).tobytes())
        for row in annotation.segments
    )


def without_crowds(images: Iterable[list[Found]]) -> list[list[Found]]:
    return [[row for row in rows if not row[1]] for rows in images]


def converted_back(source: Source, folder: Path, split: str = "val") -> list[list[Found]]:
    """Convert a source to `folder/back`, and return its segments."""
    from panformer_cli.prepare.convert import convert

    convert(source, folder / "back", (split,), ConvertOptions(), SilentReporter())
    return masks_of(folder / "back", split)


def truth(name: str, number: int = 0) -> list[bytes]:
    """Return the masks of a class in image `number`, without crowds, sorted."""
    ids, rows = hard_map()
    ids = ids if number == 0 else ids[:, ::-1]
    (category,) = [row["id"] for row in CATEGORIES if row["name"] == name]
    return sorted((ids == row["id"]).tobytes() for row in rows if row["category_id"] == category and not row["iscrowd"])


def filled(points: Sequence[Sequence[float]]) -> Mask:
    """Return the pixels whose centers are inside of a polygon, drawn by Pillow at four times the size."""
    canvas = Image.new("L", (4 * WIDTH + 1, 4 * HEIGHT + 1))
    ImageDraw.Draw(canvas).polygon([(4 * x, 4 * y) for x, y in points], fill=1)
    return np.asarray(canvas)[2::4, 2::4] > 0


def inside(points: Sequence[Sequence[float]]) -> Mask:
    """Return the pixels whose centers are inside of a polygon by the even-odd rule, one pixel and edge at a time."""
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    edges = list(zip(points, [*points[1:], points[0]], strict=True))
    for y in range(HEIGHT):
        for x in range(WIDTH):
            for (x1, y1), (x2, y2) in edges:
                if (y1 > y + 0.5) != (y2 > y + 0.5) and x + 0.5 < x1 + (y + 0.5 - y1) / (y2 - y1) * (x2 - x1):
                    mask[y, x] ^= True
    return mask
