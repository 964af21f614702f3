"""Labels as labelme's JSON files.

The format is defined by labelme's `labelme/_label_file.py` and `labelme/utils/shape.py`.
"""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from panformer_cli.data.categories import CategoryTable
from panformer_cli.prepare.annotation_tools.shapes import Mask
from panformer_cli.prepare.export.class_files import CLASSES, write_classes
from panformer_cli.prepare.export.label_format import LabeledSplit, LabelReport, Labels, Loss, ShapeKind, command_back
from panformer_cli.prepare.export.labeled_image import LabeledImage, LabeledSegment
from panformer_cli.prepare.source import SPLIT_NAME
from panformer_cli.storage.files import name_inside, write_json, write_text

LABELS = "labels.txt"
"""The class names, as `labelme --labels` reads them."""

_VERSION = "5.5.0"
"""A version of labelme that has masks."""

_HOLES = Loss("segment", "with holes written as masks, because polygons in labelme have no holes")


@dataclass(frozen=True)
class LabelmeFormat:
    """`<split>/<name>.json` next to each image.

    Attributes:
        shapes: `polygons` for segments without holes, or `masks` for all. Parts of one object have the same `group_id`.
        tolerance: How far a simplified outline may be from the exact one, in pixels.
    """

    shapes: ShapeKind = "polygons"
    tolerance: float = 0.0
    name: str = "labelme"

    def image_folder(self, split: str) -> str:
        return split

    def unnamed(self, splits: Sequence[str]) -> list[str]:
        return [split for split in splits if not SPLIT_NAME.fullmatch(split)] if len(splits) > 1 else []

    def labels(self, image: LabeledImage, report: LabelReport) -> list[dict[str, Any]]:
        """Return the rows of `shapes`."""
        numbered = enumerate(image.segments, 1)
        return [row for number, segment in numbered for row in self._rows(segment, number, report)]

    def _rows(self, segment: LabeledSegment, number: int, report: LabelReport) -> list[dict[str, Any]]:
        parts = segment.parts() if self.shapes == "polygons" else []
        has_holes = any(part.holes for part in parts)
        if has_holes:
            report.losses[_HOLES] += 1
        if has_holes or not parts:
            report.count(segment, "mask")
            box = segment.box
            corners = [[box.left, box.top], [box.right - 1, box.bottom - 1]]
            return [_row("mask", segment, corners, None, _png(segment.mask))]
        report.count(segment, "polygon", len(parts))
        outlines = report.simplified(parts, segment, self.tolerance)
        group = number if len(parts) > 1 else None
        points = [segment.in_image(part.outer).astype(int).tolist() for part in outlines]
        return [_row("polygon", segment, corners, group) for corners in points]

    def write(self, out: Path, splits: Sequence[LabeledSplit], categories: CategoryTable) -> None:
        for split in splits:
            folder = out / self.image_folder(split.name)
            for labels in split.labels:
                name = str(PurePosixPath(labels.file_name).with_suffix(".json"))
                write_json(name_inside(folder, name, labels.file_name), _content(labels), waits_for_disk=False)
        write_text(out / LABELS, "".join(f"{category.name}\n" for category in categories.categories))
        write_classes(out, categories)

    def next_steps(self, out: Path, splits: Sequence[str]) -> Iterable[str]:
        for split in splits:
            yield f"To open {split}: {shlex.join(['labelme', str(out / split), '--labels', str(out / LABELS)])}"
        yield command_back(self.name, out, "--classes", str(out / CLASSES))


def _content(labels: Labels) -> dict[str, Any]:
    height, width = labels.size
    return {
        "version": _VERSION,
        "flags": {suspect.text: True for suspect in labels.suspects},
        "shapes": labels.content,
        "imagePath": PurePosixPath(labels.file_name).name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _row(
    kind: str, segment: LabeledSegment, points: list[list[int]], group: int | None, mask: str | None = None
) -> dict[str, Any]:
    row = {
        "label": segment.category.name,
        "points": points,
        "group_id": group,
        "description": "",
        "shape_type": kind,
        "flags": {"iscrowd": True} if segment.is_crowd else {},
        "mask": mask,
    }
    return row if segment.score is None else {**row, "score": segment.score}


def _png(mask: Mask) -> str:
    """Return a mask as a base64 PNG."""
    data = io.BytesIO()
    Image.fromarray(mask).convert("L").save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode("ascii")
