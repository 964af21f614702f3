"""The label formats by name."""

from __future__ import annotations

import math
from typing import Literal, get_args

from panformer_cli.data.categories import CategoryTable
from panformer_cli.errors import PanformerError
from panformer_cli.prepare.export.coco_instances import CocoInstancesFormat
from panformer_cli.prepare.export.cvat import CvatFormat
from panformer_cli.prepare.export.label_format import LabelFormat, ShapeKind
from panformer_cli.prepare.export.label_studio import LOCAL_FILES, LabelStudioFormat
from panformer_cli.prepare.export.labelme import LabelmeFormat
from panformer_cli.prepare.export.yolo import YoloFormat

FormatName = Literal["coco-instances", "cvat", "labelme", "yolo", "label-studio"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)


def open_format(
    name: FormatName,
    categories: CategoryTable,
    shapes: ShapeKind | None = None,
    tolerance: float = 0.0,
    image_url: str | None = None,
) -> LabelFormat:
    """Return a label format.

    Args:
        name: One of `FORMATS`.
        categories: The categories to export.
        shapes: Masks or polygons; None is the format's default.
        tolerance: How far simplified polygons may be from the exact ones, in pixels.
        image_url: What precedes the names of images in Label Studio's tasks.

    Raises:
        PanformerError: An option does not apply to the format.
    """
    if not math.isfinite(tolerance):
        raise PanformerError(f"--simplify {tolerance}: expected a number of pixels, 0 or more")
    if shapes == "masks" and name == "yolo":
        raise PanformerError("YOLO has no masks; leave out --shapes masks, or choose another format with --to")
    if image_url is not None and name != "label-studio":
        raise PanformerError("--image-url needs --to label-studio; leave it out")
    default: ShapeKind = "polygons" if name in ("labelme", "yolo") else "masks"
    kind = shapes or default
    if tolerance and kind == "masks":
        raise PanformerError("--simplify needs polygons; add --shapes polygons, or leave it out")
    if name == "coco-instances":
        return CocoInstancesFormat(kind, tolerance)
    if name == "cvat":
        return CvatFormat(kind, tolerance)
    if name == "labelme":
        return LabelmeFormat(kind, tolerance)
    if name == "yolo":
        return YoloFormat(categories, tolerance)
    return LabelStudioFormat(kind, tolerance, LOCAL_FILES if image_url is None else image_url)
