"""The page of `visualize`: tables, curves, and pictures with the colors of their categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from panformer_cli.pages.base import Table, write_page
from panformer_cli.pages.chart import Chart, draw


@dataclass(frozen=True)
class Picture:
    """A picture file.

    path: relative to the folder of the page, with `/`.
    size: (height, width) in pixels, so that the page does not jump while it loads.
    """

    path: str
    caption: str
    detail: str
    size: tuple[int, int]


@dataclass(frozen=True)
class LegendEntry:
    """A category with its color (RGB, 0..255) and the number of its segments."""

    name: str
    color: tuple[int, int, int]
    count: int


@dataclass(frozen=True)
class GalleryPage:
    """What the page shows; a section without content is left out.

    facts: name and value of every input. tables: results of an evaluation. charts: of a training run.
    has_pairs: every picture is twice as wide as an image.
    """

    title: str
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    legend: Sequence[LegendEntry] = ()
    pictures: Sequence[Picture] = ()
    has_pairs: bool = False


def write_gallery(path: Path, page: GalleryPage) -> None:
    """Write the page, atomically.

    Raises:
        PanformerError: the file cannot be written.
    """
    drawings = [draw(chart) for chart in page.charts]
    write_page(path, "gallery.html", page.title, page.facts, page=page, drawings=drawings)
