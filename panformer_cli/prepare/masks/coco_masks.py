"""Decode a COCO `segmentation` (polygons or either kind of RLE) to a mask with pycocotools.

Input is checked first because pycocotools does not check it and may access invalid memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from panformer_cli.data.coco.json_values import whole_number
from panformer_cli.prepare.annotation_tools.shapes import check_not_fractions
from panformer_cli.prepare.compressed_rle import decompress
from panformer_cli.prepare.left_out import (
    BAD_COORDINATES,
    BAD_RUNS,
    FEW_POINTS,
    NO_AREA,
    OTHER,
    AnnotationError,
    AnnotationLog,
)
from panformer_cli.prepare.overlap import Mask
from panformer_cli.wording import short


class CroppedMask(NamedTuple):
    """A mask, (h, w) bool, cropped to its bounding box at row `top` and column `left` of the image."""

    mask: Mask
    top: int
    left: int


def mask_of_segmentation(segmentation: Any, size: tuple[int, int], where: str, log: AnnotationLog) -> CroppedMask:
    """Return the mask of a segmentation, as in pycocotools' `annToMask` but cropped.

    Args:
        segmentation: A list of polygons `[x1, y1, x2, y2, ...]` in pixels, or `{"size": [H, W], "counts": ...}` with a
            list of run lengths or COCO's compressed text. A list may also contain the latter.
        size: Height and width of the image.
        where: File and annotation, for error messages.
        log: Receives polygons of fewer than 3 points beside others. They have no pixels.

    Raises:
        DataError: The segmentation has another format or does not match the size.
    """
    parts = segmentation if isinstance(segmentation, list) else [segmentation]
    rles = [part for part in parts if isinstance(part, dict) and not {"size", "counts"}.isdisjoint(part)]
    if not rles and not isinstance(segmentation, list):
        raise AnnotationError(
            f"{where}: the segmentation is {short(segmentation)}; expected a list of polygons or an RLE"
        )
    polygons = [part for part in parts if part not in rles]
    shape = {"size": list(size)}
    encoded = coco_mask.merge(
        [coco_mask.frPyObjects(shape | {"counts": _counts(rle, size, where)}, *size) for rle in rles]
        + (coco_mask.frPyObjects(_polygons(polygons, size, where, log), *size) if polygons else [])
    )
    left, top, width, height = (int(number) for number in coco_mask.toBbox(encoded))
    mask = coco_mask.decode(encoded)[top : top + height, left : left + width]
    return CroppedMask(np.array(mask, np.bool_, order="C"), top, left)


def _polygons(polygons: list[Any], size: tuple[int, int], where: str, log: AnnotationLog) -> list[list[float]]:
    points = [polygon for polygon in polygons if _is_point_or_line(polygon)]
    if len(points) < len(polygons):
        polygons = [polygon for polygon in polygons if polygon not in points]
        log.left_out.extend((NO_AREA, f"{where}: a part is {short(part)}, without area") for part in points)
    for polygon in polygons:
        if not isinstance(polygon, list) or any(isinstance(number, list) for number in polygon):
            raise AnnotationError(
                f"{where}: a polygon is {short(polygon)}; expected x1, y1, x2, y2, x3, y3, ..., and a list of such "
                "polygons: [[x1, y1, ...]]"
            )
        if len(polygon) < 6 or len(polygon) % 2:
            raise AnnotationError(
                f"{where}: a polygon is {short(polygon)}; expected x1, y1, x2, y2, x3, y3, ... with 3 or more points",
                FEW_POINTS if len(polygon) < 6 else OTHER,
            )
        # Small overshoots are common; points farther than one image size away belong to another image or unit.
        far = [n for n in polygon if type(n) not in (int, float) or not -max(size) <= n <= 2 * max(size)]
        if far:
            raise AnnotationError(
                f"{where}: a polygon contains {short(far[0])}; expected pixels of the {size[1]}x{size[0]} image",
                BAD_COORDINATES,
            )
    check_not_fractions([number for polygon in polygons for number in polygon], size, where)
    return polygons


def _is_point_or_line(polygon: Any) -> bool:
    is_flat = isinstance(polygon, list) and not any(isinstance(number, list) for number in polygon)
    return is_flat and len(polygon) in (0, 2, 4)


def _counts(rle: dict[str, Any], size: tuple[int, int], where: str) -> list[int]:
    """Return the run lengths, alternately outside and inside, after checking that they fill the image."""
    if rle.get("size") != list(size):
        raise AnnotationError(
            f"{where}: the RLE has the size {short(rle.get('size'))}; expected {list(size)}, the height and width"
            " of the image",
            BAD_RUNS,
        )
    counts = rle.get("counts")
    if isinstance(counts, str):
        decoded = decompress(counts.encode("utf-8", "surrogatepass"))
        counts = None if decoded is None else decoded.tolist()
    elif isinstance(counts, list):
        counts = [whole_number(count) for count in counts]
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise AnnotationError(
            f"{where}: the counts of the RLE are {short(rle.get('counts'))}; expected run lengths", BAD_RUNS
        )
    if sum(counts) != size[0] * size[1]:
        raise AnnotationError(
            f"{where}: the counts of the RLE add up to {sum(counts)}; expected {size[0] * size[1]}, the number of "
            f"pixels in {size[1]}x{size[0]}",
            BAD_RUNS,
        )
    return counts
