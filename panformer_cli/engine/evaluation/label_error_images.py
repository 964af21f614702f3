"""Thumbnails of probable label errors: the image, the annotation and the prediction, side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_png import read_panoptic_png
from panformer_cli.data.images import read_image
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray, PanopticMap
from panformer_cli.engine.evaluation.report_images import ImageFiles
from panformer_cli.metrics.analysis.label_errors import Suspect
from panformer_cli.pages.gallery.images import resized
from panformer_cli.visualization.drawing import highlight, save_image, side_by_side

PANEL = 220
"""Longer side of a panel, in pixels."""

_SMALLEST_CROP = 48
"""Minimum side of a crop, in pixels of the image."""


def draw_suspect(path: Path, suspect: Suspect, files: ImageFiles, categories: CategoryTable) -> tuple[int, int]:
    """Write the thumbnail of a suspect, and return its height and width.

    It shows the surroundings of the suspect's box: the image (if there is one), the annotation and the prediction. The
    segments of the suspect are colored and outlined; the other segments have thin borders.

    Raises:
        PanformerError: A file cannot be read or written.
    """
    assert files.truth and files.prediction, "an evaluation has both maps"
    truth, prediction = read_panoptic_png(files.truth), read_panoptic_png(files.prediction)
    height, width = truth.shape
    rows, columns = _window(suspect.box, height, width)
    size = _panel_size(rows.stop - rows.start, columns.stop - columns.start)
    crop = np.full((*size, 3), 128, np.uint8)
    if files.photo:
        crop = _scaled(resized(read_image(files.photo), (height, width))[rows, columns], size)
    sides = (("annotation", truth, suspect.truth), ("prediction", prediction, suspect.predictions))
    panels, captions = ([crop], ["image"]) if files.photo else ([], [])
    for name, ids, segments in sides:
        names = dict.fromkeys(categories.by_id(segment.category_id).name for segment in segments)
        shown = np.asarray(cv2.resize(ids[rows, columns], size[::-1], interpolation=cv2.INTER_NEAREST), np.int32)
        panels.append(highlight(crop, PanopticMap(shown, segments), categories))
        captions.append(f"{name}: {', '.join(names) or 'nothing'}")
    picture = side_by_side(panels, captions)
    save_image(path, picture, jpeg_quality=85)
    return picture.shape[0], picture.shape[1]


def _window(box: tuple[int, int, int, int], height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns of a crop: a square around the box with a margin, as far as the image allows."""
    left, top, box_width, box_height = box
    side = max(1.5 * box_width, 1.5 * box_height, _SMALLEST_CROP)
    return _interval(top + box_height / 2, side, height), _interval(left + box_width / 2, side, width)


def _interval(center: float, length: float, limit: int) -> slice:
    """Return an interval of about this center and length in 0..limit."""
    whole = min(round(length), limit)
    start = min(max(round(center - whole / 2), 0), limit - whole)
    return slice(start, start + whole)


def _panel_size(height: int, width: int) -> tuple[int, int]:
    scale = PANEL / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _scaled(pixels: ImageArray, size: tuple[int, int]) -> ImageArray:
    """Return the image at `size` (height, width); an enlarged one stays smooth."""
    if size[0] < pixels.shape[0]:
        return resized(pixels, size)
    return np.asarray(cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
