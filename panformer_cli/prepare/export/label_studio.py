"""Labels as tasks of Label Studio, with the segments as predictions.

The format is documented at https://labelstud.io/guide/predictions and https://labelstud.io/tags/brushlabels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.json_stream import write_list
from panformer_cli.prepare.export.brush_rle import encode
from panformer_cli.prepare.export.class_files import tool_colors
from panformer_cli.prepare.export.label_format import LabeledSplit, LabelReport, Labels, Loss, ShapeKind
from panformer_cli.prepare.export.labeled_image import LabeledImage, LabeledSegment
from panformer_cli.storage.files import atomic_write, write_text

CONFIG = "labels.xml"
"""The labeling interface."""

LOCAL_FILES = "/data/local-files/?d=images/"
"""Where Label Studio serves the images, if LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT is the output folder."""

_REVIEW = "review"
"""The text in a task with its probable label errors."""

_CROWDS = Loss("crowd segment", "left out, because Label Studio has no crowds")
_NOT_ONE_OUTLINE = Loss(
    "segment", "with several parts or holes written as brush labels, because a polygon in Label Studio has one outline"
)


@dataclass(frozen=True)
class LabelStudioFormat:
    """`tasks_<split>.json`, the labeling interface `labels.xml`, and the images.

    Attributes:
        shapes: `masks` are brush labels; `polygons` are used for segments of one part without holes.
        tolerance: How far a simplified outline may be from the exact one, in pixels.
        image_url: What precedes `<split>/<name>` in the address of an image.
    """

    shapes: ShapeKind = "masks"
    tolerance: float = 0.0
    image_url: str = LOCAL_FILES
    name: str = "label-studio"

    def image_folder(self, split: str) -> str:
        return f"images/{split}"

    def labels(self, image: LabeledImage, report: LabelReport) -> list[dict[str, Any]]:
        """Return the regions of the prediction."""
        regions = []
        for segment in image.segments:
            if segment.is_crowd:
                report.losses[_CROWDS] += 1
            else:
                regions.append(self._region(segment, image, report))
        return regions

    def _region(self, segment: LabeledSegment, image: LabeledImage, report: LabelReport) -> dict[str, Any]:
        height, width = image.size
        parts = segment.parts() if self.shapes == "polygons" else []
        is_polygon = len(parts) == 1 and not parts[0].holes
        if parts and not is_polygon:
            report.losses[_NOT_ONE_OUTLINE] += 1
        report.count(segment, "polygon" if is_polygon else "mask")
        kind = "polygon" if is_polygon else "brush"
        value: dict[str, Any] = {"format": "rle", "rle": []}
        if is_polygon:
            (outline,) = report.simplified(parts, segment, self.tolerance)
            percent = 100 * segment.in_image(outline.outer) / np.array([width, height])
            value = {"points": percent.round(7).tolist(), "closed": True}
        else:
            value["rle"] = encode(image.ids == segment.id)
        return {
            "id": f"segment-{segment.id}",
            "type": f"{kind}labels",
            "from_name": kind,
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {**value, f"{kind}labels": [segment.category.name]},
            **({} if segment.score is None else {"score": segment.score}),
        }

    def write(self, out: Path, splits: Sequence[LabeledSplit], categories: CategoryTable) -> None:
        for split in splits:
            path = out / _tasks_name(split.name)
            with atomic_write(path, waits_for_disk=False) as temporary, temporary.open("w", encoding="utf-8") as file:
                write_list(file, (self._task(labels, split.name) for labels in split.labels))
        has_review = any(split.suspects for split in splits)
        write_text(out / CONFIG, "".join(_interface(categories, self.shapes, has_review)))

    def _task(self, labels: Labels, split: str) -> dict[str, Any]:
        scores = [region["score"] for region in labels.content if "score" in region]
        prediction = {"model_version": "panformer", "result": labels.content}
        if scores:
            prediction["score"] = sum(scores) / len(scores)
        url = self.image_url + quote(f"{split}/{labels.file_name}")
        data = {"image": url}
        if labels.suspects:
            data[_REVIEW] = "\n".join(suspect.text for suspect in labels.suspects)
        return {"data": data, "predictions": [prediction]}

    def next_steps(self, out: Path, splits: Sequence[str]) -> Iterable[str]:
        yield f"In Label Studio: create a project with the labeling interface {out / CONFIG} (Code),"
        tasks = " or ".join(str(out / _tasks_name(split)) for split in splits)
        yield f"let it serve the images (docs/data.md shows how), then import {tasks}."


def _tasks_name(split: str) -> str:
    return f"tasks_{split}.json"


def _interface(categories: CategoryTable, shapes: ShapeKind, has_review: bool) -> Iterator[str]:
    yield "<View>\n"
    if has_review:
        yield f'  <Text name="{_REVIEW}" value="${_REVIEW}"/>\n'
    yield '  <Image name="image" value="$image" zoom="true"/>\n'
    for kind in ("brush", *(["polygon"] if shapes == "polygons" else [])):
        tag = f"{kind.capitalize()}Labels"
        yield f'  <{tag} name="{kind}" toName="image">\n'
        for name, color in tool_colors(categories).items():
            yield f'    <Label value={quoteattr(name)} background="{color}"/>\n'
        yield f"  </{tag}>\n"
    yield "</View>\n"
