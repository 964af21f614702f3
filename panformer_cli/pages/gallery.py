"""The page of `visualize`: tables, curves, and images with a legend of categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from panformer_cli.pages.base import Table, write_page
from panformer_cli.pages.chart import Chart, draw


@dataclass(frozen=True)
class Overlay:
    """An overlay on the page.

    Attributes:
        path: Path relative to the folder of the page, with `/`.
        caption: Name below the image.
        detail: Second line below the image.
        size: Height and width in pixels, so that the layout does not shift while images load.
    """

    path: str
    caption: str
    detail: str
    size: tuple[int, int]


@dataclass(frozen=True)
class LegendEntry:
    """A category with its color (RGB, 0..255) and its number of segments."""

    name: str
    color: tuple[int, int, int]
    count: int


@dataclass(frozen=True)
class GalleryPage:
    """Content of the page; empty sections are left out.

    Attributes:
        title: Heading of the page.
        facts: Name and value of every input.
        tables: Results of an evaluation.
        charts: Curves of a training run.
        legend: Categories in the images.
        overlays: The images on the page.
        has_pairs: Whether every image is a pair, side by side.
    """

    title: str
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    legend: Sequence[LegendEntry] = ()
    overlays: Sequence[Overlay] = ()
    has_pairs: bool = False


def write_gallery(path: Path, page: GalleryPage) -> None:
    """Write the page, atomically.

    Raises:
        PanformerError: The file cannot be written.
    """
    drawings = [draw(chart) for chart in page.charts]
    write_page(path, "gallery.html", page.title, page.facts, page=page, drawings=drawings)
