"""The page of `predict --gallery`, in `OUT/gallery`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.engine.outputs.file_list import add_file
from panformer_cli.engine.outputs.names import GALLERY, gallery_key
from panformer_cli.pages.gallery.images import FoundSegment, GalleryImage, listed_image
from panformer_cli.pages.gallery.page import GalleryPage, write_gallery
from panformer_cli.pages.replacing import PAGE
from panformer_cli.visualization.drawing import category_colors

Row = Mapping[str, Any]


def write_gallery_page(
    out: Path, rows: Iterable[tuple[Row, Row]], categories: CategoryTable, checkpoint: str, has_overlays: bool
) -> Path:
    """Write `OUT/gallery/index.html` for images whose files `registry.GalleryOutput` wrote; return its path.

    Args:
        out: The folder of results.
        rows: Rows of `images` and `annotations` in the panoptic JSON.
        categories: The category table with the colors of the drawings.
        checkpoint: Name of the checkpoint, for the head of the page.
        has_overlays: Whether the overlays exist; the viewer links to them.

    Raises:
        WriteError: A file cannot be written.
    """
    images = list(_images(rows, categories, has_overlays))
    page = out / GALLERY / PAGE
    add_file(out, f"{GALLERY}/{PAGE}")
    write_gallery(page, GalleryPage("Predictions", [("Checkpoint", checkpoint)], images=images))
    return page


def _images(rows: Iterable[tuple[Row, Row]], categories: CategoryTable, has_overlays: bool) -> Iterator[GalleryImage]:
    colors = category_colors(categories).tolist()
    for image, annotation in rows:
        key = gallery_key(annotation["file_name"])
        segments = [
            FoundSegment(row["category_name"], tuple(colors[categories.label(row["category_id"])]), row.get("score"))
            for row in annotation["segments_info"]
        ]
        shown = listed_image(key, image["file_name"], (image["height"], image["width"]), segments)
        overlay = f"../overlays/{PurePosixPath(annotation['file_name']).with_suffix('.jpg')}" if has_overlays else ""
        yield replace(shown, drawing=overlay)
