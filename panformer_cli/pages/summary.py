"""The summary page of a prepared data set: the contents of each split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from panformer_cli.pages.base import Bar, Cell, Label, Table, write_page
from panformer_cli.pages.gallery.images import GalleryImage
from panformer_cli.pages.gallery.page import ImageData
from panformer_cli.wording import counted

MAX_IMAGE_SIZES = 20
"""Number of image sizes on the page; the most frequent ones are shown."""

_SIZES = {"small": "below 32 x 32", "medium": "below 96 x 96", "large": "larger"}


def write_summary(path: Path, name: str, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the page, atomically.

    Args:
        path: Path of the page.
        name: Name of the data set; the heading of the page.
        summaries: `SplitSummary.to_json` of each split, by name.

    Raises:
        PanformerError: The file cannot be written.
    """
    splits: list[Any] = []
    images: list[GalleryImage] = []
    for split, content in summaries.items():
        samples = [_sample(row) for row in content.get("samples", [])]
        tables = [*_distributions(content), *_void_values(content)]
        splits.append((split, content, _categories(content["categories"]), tables, (len(images), len(samples))))
        images += samples
    write_page(path, "summary.html", name, splits=splits, data=ImageData(images), hidden_layers=())


def _sample(row: Mapping[str, Any]) -> GalleryImage:
    """Return a sample image; of those in summaries of earlier versions there is only a drawing."""
    if "viewer" in row:
        return GalleryImage.from_json(row["viewer"])
    height, width = row["size"]
    return GalleryImage(row["file_name"], counted(row["segments"], "segment"), row["path"], (height, width))


def _distributions(content: Mapping[str, Any]) -> list[Table]:
    image_sizes = content["image_sizes"]
    shown = [(f"{width} x {height}", count) for height, width, count in image_sizes[:MAX_IMAGE_SIZES]]
    note = f"The {len(shown)} most frequent of {len(image_sizes):,} sizes." if len(image_sizes) > len(shown) else ""
    sizes = [(_SIZES[name], count) for name, count in content["segment_sizes"].items()]
    return [
        _distribution("Things by size", "Pixels", "Segments", sizes),
        _distribution("Segments per image", "Segments", "Images", content["segments_per_image"]),
        _distribution("Image sizes", "Width x height", "Images", shown, note),
    ]


def _categories(categories: Sequence[Mapping[str, Any]]) -> Table:
    most = max((category["segments"] for category in categories), default=0)
    rows: list[list[Cell]] = [
        [
            Label(category["name"], category.get("color")),
            "thing" if category["isthing"] else "stuff",
            Bar(category["segments"], most, "things" if category["isthing"] else "stuff"),
            *(category[key] for key in ("images", "crowd", "pixels")),
        ]
        for category in sorted(categories, key=lambda category: -int(category["segments"]))
    ]
    return Table("Categories", ["Category", "Type", "Segments", "Images", "Crowd", "Pixels"], rows)


def _void_values(content: Mapping[str, Any]) -> list[Table]:
    """Return the table of class values that became void; none if there are none."""
    values = content.get("void_values", {})  # not in summaries of earlier versions
    most = max(values.values(), default=0)
    rows: list[list[Cell]] = [[value, Bar(pixels, most, "lost")] for value, pixels in values.items()]
    return [Table("Class values that became void", ["Value", "Pixels"], rows)] if rows else []


def _distribution(
    caption: str, name: str, counted: str, rows: Iterable[tuple[str | int, int]], note: str = ""
) -> Table:
    rows = list(rows)
    most = max((count for _, count in rows), default=0)
    return Table(caption, [name, counted], [[value, Bar(count, most, "things")] for value, count in rows], note)
