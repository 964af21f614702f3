"""Labels as CVAT's XML, `CVAT for images 1.1`.

The format is documented at https://docs.cvat.ai/docs/other/xml_format.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.cvat import ANNOTATION
from panformer_cli.prepare.annotation_tools.shapes import Mask, Points
from panformer_cli.prepare.export.class_files import CLASSES, tool_colors, write_classes
from panformer_cli.prepare.export.label_format import LabeledSplit, LabelReport, Labels, Loss, ShapeKind, command_back
from panformer_cli.prepare.export.labeled_image import LabeledImage, LabeledSegment
from panformer_cli.storage.files import atomic_write, write_json

LABELS = "labels.json"
"""The labels as CVAT's raw label editor accepts them."""

_REASON, _TAG_COLOR = "reason", "#ff0000"
"""The attribute of a tag with a probable label error, and the color of the tags."""

_CROWDS = Loss("crowd segment", "left out, because CVAT has no crowds; their pixels are void when read back")
_HOLES = Loss("segment", "with holes written as masks, because polygons in CVAT have no holes")
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class CvatFormat:
    """`annotations.xml` with all splits, and the images. The splits are the subsets.

    Attributes:
        shapes: `masks`, or `polygons` for segments without holes. Parts of one object have the same `group_id`.
        tolerance: How far a simplified outline may be from the exact one, in pixels.
    """

    shapes: ShapeKind = "masks"
    tolerance: float = 0.0
    name: str = "cvat"

    def image_folder(self, split: str) -> str:
        return f"images/{split}"

    def labels(self, image: LabeledImage, report: LabelReport) -> list[str]:
        """Return the shapes as XML elements."""
        if found := _NOT_IN_XML.search(image.file_name):
            raise DataError(
                f"the file name {image.file_name!r} contains {found[0]!r}, which XML cannot contain; rename the image"
            )
        elements = []
        for number, segment in enumerate(image.segments, 1):
            if segment.is_crowd:
                report.losses[_CROWDS] += 1
            else:
                elements += self._elements(segment, number, report)
        return elements

    def _elements(self, segment: LabeledSegment, number: int, report: LabelReport) -> list[str]:
        parts = segment.parts() if self.shapes == "polygons" else []
        has_holes = any(part.holes for part in parts)
        if has_holes:
            report.losses[_HOLES] += 1
        if has_holes or not parts:
            report.count(segment, "mask")
            return [_element("mask", segment, _mask_attributes(segment))]
        report.count(segment, "polygon", len(parts))
        outlines = report.simplified(parts, segment, self.tolerance)
        group = {"group_id": number} if len(parts) > 1 else {}
        points = [_points(segment.in_image(part.outer)) for part in outlines]
        return [_element("polygon", segment, {"points": text, **group}) for text in points]

    def write(self, out: Path, splits: Sequence[LabeledSplit], categories: CategoryTable) -> None:
        colors = tool_colors(categories)
        tag = _tag_name(colors) if any(split.suspects for split in splits) else ""
        with atomic_write(out / ANNOTATION, False) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(_document(splits, colors, tag))
        rows = [{"name": name, "color": color, "type": "any", "attributes": []} for name, color in colors.items()]
        write_json(out / LABELS, [*rows, *([_tag_label(tag)] if tag else [])])
        write_classes(out, categories)

    def next_steps(self, out: Path, splits: Sequence[str]) -> Iterable[str]:
        yield f"In CVAT: create a task with the labels in {out / LABELS} (Raw) and the images in {out / 'images'},"
        yield f"then upload {out / ANNOTATION} as annotations in the format CVAT 1.1."
        yield command_back(self.name, out, "--classes", str(out / CLASSES))


def _tag_name(classes: Collection[str]) -> str:
    """Return the label of the tags with probable label errors, which is not a class."""
    name = "review"
    while name in classes:
        name += "_"
    return name


def _tag_label(name: str) -> dict[str, Any]:
    """Return the label of a tag with a text."""
    attribute = {"name": _REASON, "input_type": "text", "mutable": False, "values": [""]}
    return {"name": name, "color": _TAG_COLOR, "type": "tag", "attributes": [attribute]}


def _document(splits: Sequence[LabeledSplit], colors: Mapping[str, str], tag: str) -> Iterator[str]:
    size = sum(len(split.labels) for split in splits)
    yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta><task>\n'
    yield f"<name>panformer</name><size>{size}</size><mode>annotation</mode><overlap>0</overlap><z_order>True</z_order>"
    yield "\n<labels>\n"
    for name, color in colors.items():
        yield f"<label><name>{escape(name)}</name><color>{color}</color><type>any</type>"
        yield "<attributes></attributes></label>\n"
    if tag:
        yield f"<label><name>{tag}</name><color>{_TAG_COLOR}</color><type>tag</type><attributes><attribute>"
        yield f"<name>{_REASON}</name><mutable>False</mutable><input_type>text</input_type><default_value/><values/>"
        yield "</attribute></attributes></label>\n"
    yield "</labels>\n</task></meta>\n"
    numbers = _image_numbers(splits)
    for split in splits:
        for labels in split.labels:
            yield from _image(labels, next(numbers), split.name, tag)
    yield "</annotations>\n"


def _image_numbers(splits: Sequence[LabeledSplit]) -> Iterator[int | str]:
    """Return the ids of the images, or numbers from 1 if some are not whole numbers."""
    ids = [labels.image_id for split in splits for labels in split.labels]
    return iter(ids if all(re.fullmatch("[0-9]{1,15}", str(id_)) for id_ in ids) else range(1, len(ids) + 1))


def _image(labels: Labels, number: int | str, split: str, tag: str) -> Iterator[str]:
    height, width = labels.size
    name = _attributes({"id": number, "name": labels.file_name, "subset": split, "width": width, "height": height})
    yield f"<image {name}>\n"
    yield from labels.content
    for suspect in labels.suspects:
        text = escape(_NOT_IN_XML.sub("\ufffd", suspect.text))
        yield f'<tag label="{tag}" source="manual"><attribute name="{_REASON}">{text}</attribute></tag>\n'
    yield "</image>\n"


def _element(kind: str, segment: LabeledSegment, shape: Mapping[str, Any]) -> str:
    is_prediction = segment.score is not None
    values = {
        "label": segment.category.name,
        "source": "auto" if is_prediction else "manual",
        "occluded": 0,
        **shape,
        "z_order": int(segment.category.is_thing),
        **({"score": segment.score} if is_prediction else {}),
    }
    return f"<{kind} {_attributes(values)}></{kind}>\n"


def _attributes(values: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={quoteattr(str(value))}" for key, value in values.items())


def _points(points: Points) -> str:
    return ";".join(f"{x:.2f},{y:.2f}" for x, y in points.tolist())


def _mask_attributes(segment: LabeledSegment) -> dict[str, Any]:
    height, width = segment.box.size
    runs = ", ".join(map(str, run_lengths(segment.mask)))
    return {"rle": runs, "left": segment.box.left, "top": segment.box.top, "width": width, "height": height}


def run_lengths(mask: Mask) -> list[int]:
    """Return the row-major run lengths of a mask, alternately outside and inside, starting outside.

    >>> run_lengths(np.array([[True, False], [False, True]]))
    [0, 1, 2, 1]
    """
    changes = np.flatnonzero(np.diff(mask.ravel(), prepend=False))
    lengths: list[int] = np.diff(changes, prepend=0, append=mask.size).tolist()
    return lengths
