"""Sample images of a split, drawn with their segments for its summary page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_png import read_panoptic_png
from panformer_cli.data.images import read_image
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray, PanopticMap, Segment
from panformer_cli.errors import DataError

FOLDER = "summary_images"
MOST = 12
"""Number of images on the page of a split."""

_SIDE = 960
"""Maximum length of the longer side of a drawing, pixels."""

Load = Callable[[], tuple[ImageArray, PanopticMap]]


def draw_samples(
    out: Path, split: str, categories: CategoryTable, images: Iterable[tuple[str, Load]]
) -> list[dict[str, Any]]:
    """Draw images to `OUT/summary_images/<split>/<number>.jpg`; return what the page shows of them, as JSON.

    The files of the page's viewer are in `OUT/summary_images/images`.

    An image that cannot be decoded is left out, because only training needs its pixels.

    Args:
        out: The folder of the summary.
        split: Name of the split.
        categories: The category table.
        images: File names, and functions that return an image with its map.

    Raises:
        PanformerError: A drawing cannot be written.
    """
    # Most processes draw nothing.
    from panformer_cli.pages.gallery.images import write_image
    from panformer_cli.pages.gallery.layers import ShownMap
    from panformer_cli.visualization.drawing import draw_panoptic, save_image

    samples = []
    for number, (name, load) in enumerate(images, 1):
        try:
            image, panoptic = load()
        except DataError:
            continue
        drawing = draw_panoptic(*_shrunk(image, panoptic), categories)
        path = f"{FOLDER}/{split}/{number}.jpg"
        save_image(out / path, drawing)
        size = [int(side) for side in drawing.shape[:2]]
        maps = [ShownMap.of("Annotation", panoptic, categories)]
        shown = write_image(out / FOLDER, f"{split}/{number}", name, image, maps).below(FOLDER)
        row = {"file_name": name, "path": path, "segments": len(panoptic.segments), "size": size}
        samples.append(row | {"viewer": replace(shown, drawing=path).to_json()})
    return samples


def load_written(image: Path, png: Path, annotation: Mapping[str, Any]) -> tuple[ImageArray, PanopticMap]:
    """Return an image and its map, given its row of `annotations`."""
    segments = tuple(
        Segment(row["id"], row["category_id"], row["area"], tuple(row["bbox"]), bool(row["iscrowd"]))
        for row in annotation["segments_info"]
    )
    return read_image(image), PanopticMap(read_panoptic_png(png), segments)


def _shrunk(image: ImageArray, panoptic: PanopticMap) -> tuple[ImageArray, PanopticMap]:
    """Return image and map with a longer side of at most `_SIDE`, and the segments that still have pixels."""
    height, width = panoptic.ids.shape
    scale = min(1.0, _SIDE / max(height, width))
    if scale == 1:
        return image, panoptic
    size = max(1, round(height * scale)), max(1, round(width * scale))
    rows, columns = ((np.arange(new) * old + old // 2) // new for new, old in zip(size, (height, width), strict=True))
    ids = panoptic.ids[np.ix_(rows, columns)]
    kept = set(np.unique(ids).tolist())
    segments = tuple(segment for segment in panoptic.segments if segment.id in kept)
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)), PanopticMap(ids, segments)
