"""The page of `visualize` and `predict --gallery`: tables, curves, and a gallery of images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from panformer_cli.pages.base import Table, url_of, write_page
from panformer_cli.pages.chart import Chart, draw
from panformer_cli.pages.gallery.images import FoundSegment, GalleryImage

_SCORES = 1000
"""Scores in the data of a page are whole thousandths, and -1 for none: the data of 5000 images stays below 2 MB."""

_IS_SIMPLE = re.compile(r"(?!.*\b(and|or|not)\b)[\w -]{1,24}")
"""Names that the search understands without quotes, and that are not long."""


class ImageData:
    """The images of a page as data for `grid.js` and `search.js`.

    Attributes:
        images: The images, in the order of the page.
    """

    def __init__(self, images: Sequence[GalleryImage]) -> None:
        self.images = images

    @cached_property
    def categories(self) -> list[tuple[str, tuple[int, int, int], int]]:
        """Name, color and number of segments of every category in the images, the most frequent first."""
        found = (_category(segment) for image in self.images for segment in image.segments)
        return [(name, color, count) for (name, color), count in Counter(found).most_common()]

    @property
    def examples(self) -> list[str]:
        """Queries that find something in these images, as far as there are categories and scores."""
        names = [name for name, _, _ in self.categories if _IS_SIMPLE.fullmatch(name)][:2]
        has_scores = any(segment.score is not None for image in self.images for segment in image.segments)
        pairs = [" and ".join(names), " and not ".join(names)] if len(names) == 2 else names
        return [*pairs, *(f"{name} > 0.5" for name in names[:1] if has_scores)]

    def to_json(self) -> dict[str, Any]:
        """Return names of categories, and images; the segments of an image are `[category, score, ...]`."""
        numbers = {(name, color): number for number, (name, color, _) in enumerate(self.categories)}
        return {
            "categories": [name for name, _, _ in self.categories],
            "images": [_to_json(image, numbers) for image in self.images],
        }


def _category(segment: FoundSegment) -> tuple[str, tuple[int, int, int]]:
    return segment.name, segment.color


def _to_json(image: GalleryImage, numbers: dict[tuple[str, tuple[int, int, int]], int]) -> dict[str, Any]:
    found = [
        number
        for segment in image.segments
        for number in (
            numbers[_category(segment)],
            -1 if segment.score is None else round(_SCORES * segment.score),
        )
    ]
    files = {"small": image.small, "large": image.large, "layers": image.layers, "drawing": image.drawing}
    return {
        "name": image.name,
        "detail": image.detail,
        **{kind: url_of(path) for kind, path in files.items() if path},
        "smallSize": image.small_size,
        "size": image.size,
        "segments": found,
    }


@dataclass(frozen=True)
class GalleryPage:
    """Content of the page; empty sections are left out.

    Attributes:
        title: Heading of the page.
        facts: Name and value of every input.
        tables: Results of an evaluation.
        charts: Curves of a training run.
        images: The images on the page.
        has_pairs: Whether every image has the ground truth and the prediction, side by side.
        hidden_layers: Layers that the viewer does not show at first, such as `labels`.
    """

    title: str
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    images: Sequence[GalleryImage] = ()
    has_pairs: bool = False
    hidden_layers: Sequence[str] = ()


def write_gallery(path: Path, page: GalleryPage) -> None:
    """Write the page, atomically.

    Raises:
        PanformerError: The file cannot be written.
    """
    drawings = [draw(chart) for chart in page.charts]
    write_page(
        path,
        "gallery.html",
        page.title,
        page.facts,
        page=page,
        drawings=drawings,
        data=ImageData(page.images),
        hidden_layers=page.hidden_layers,
    )
