"""Labels as a COCO detection JSON with RLE or polygons."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.json_stream import write_list
from panformer_cli.prepare.annotation_tools.shapes import Mask
from panformer_cli.prepare.export.class_files import CLASSES, write_classes
from panformer_cli.prepare.export.label_format import LabeledSplit, LabelReport, Loss, ShapeKind, command_back
from panformer_cli.prepare.export.labeled_image import LabeledImage, LabeledSegment
from panformer_cli.prepare.export.outlines import joined
from panformer_cli.storage.files import atomic_write

_HOLES = Loss("segment", "with holes written as polygons in which a line without width leads to each hole and back")


@dataclass(frozen=True)
class CocoInstancesFormat:
    """`annotations/instances_<split>.json` with things and stuff.

    Attributes:
        shapes: The form of `segmentation`: `masks` are COCO's compressed RLE. Crowds always are.
        tolerance: How far a simplified outline may be from the exact one, in pixels.
    """

    shapes: ShapeKind = "masks"
    tolerance: float = 0.0
    name: str = "coco-instances"

    def image_folder(self, split: str) -> str:
        return f"images/{split}"

    def labels(self, image: LabeledImage, report: LabelReport) -> list[dict[str, Any]]:
        """Return the rows of `annotations` without `id` and `image_id`."""
        rows = []
        for segment in image.segments:
            is_mask = self.shapes == "masks" or segment.is_crowd
            segmentation: Any = _rle(image.ids == segment.id) if is_mask else self._polygons(segment, report)
            report.count(segment, "mask" if is_mask else "polygon", 1 if is_mask else len(segmentation))
            rows.append(_row(segment, segmentation))
        return rows

    def _polygons(self, segment: LabeledSegment, report: LabelReport) -> list[list[int]]:
        """Return one polygon for each part; pycocotools fills them by the even-odd rule."""
        parts = report.simplified(segment.parts(), segment, self.tolerance)
        if any(part.holes for part in parts):
            report.losses[_HOLES] += 1
        polygons = [segment.in_image(joined([part.outer, *part.holes])) for part in parts]
        return [polygon.astype(int).ravel().tolist() for polygon in polygons]

    def write(self, out: Path, splits: Sequence[LabeledSplit], categories: CategoryTable) -> None:
        table = [{**row, "supercategory": "thing" if row["isthing"] else "stuff"} for row in categories.to_coco()]
        for split in splits:
            path = out / "annotations" / f"instances_{split.name}.json"
            with atomic_write(path, waits_for_disk=False) as temporary, temporary.open("w", encoding="utf-8") as file:
                file.write(json.dumps({"categories": table}).removesuffix("}"))
                for key, rows in (("images", _images(split)), ("annotations", _annotations(split))):
                    file.write(f', "{key}": ')
                    write_list(file, rows)
                file.write("}")
        write_classes(out, categories)

    def next_steps(self, out: Path, splits: Sequence[str]) -> Iterable[str]:
        yield command_back(self.name, out, "--classes", str(out / CLASSES))


def _rle(mask: Mask) -> dict[str, Any]:
    """Return COCO's compressed RLE of a mask, (H, W) bool."""
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


def _row(segment: LabeledSegment, segmentation: Any) -> dict[str, Any]:
    box = segment.box
    height, width = box.size
    row = {
        "category_id": segment.category.id,
        "segmentation": segmentation,
        "area": segment.area,
        "bbox": [box.left, box.top, width, height],
        "iscrowd": int(segment.is_crowd),
    }
    return row if segment.score is None else {**row, "score": segment.score}


def _images(split: LabeledSplit) -> Iterator[dict[str, Any]]:
    for labels in split.labels:
        height, width = labels.size
        yield {"id": labels.image_id, "file_name": labels.file_name, "height": height, "width": width}


def _annotations(split: LabeledSplit) -> Iterator[dict[str, Any]]:
    rows = ((labels.image_id, row) for labels in split.labels for row in labels.content)
    for number, (image_id, row) in enumerate(rows, 1):
        yield {"id": number, "image_id": image_id, **row}
