"""The content of the report page, and writing the page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from panformer_cli.pages.base import Cell, Label, Table, write_page
from panformer_cli.pages.gallery.images import GalleryImage
from panformer_cli.pages.gallery.page import ImageData
from panformer_cli.pages.report.images import ImageScore


@dataclass(frozen=True)
class CalibrationBin:
    """Predicted segments in one range of scores: mean score and matched fraction (both 0..1), and their number."""

    score: float
    precision: float
    count: int


@dataclass(frozen=True)
class Section:
    """A section of the page, with a link to it in the navigation bar.

    Attributes:
        name: One word for the navigation bar, unique on the page.
        heading: Heading of the section.
        text: Paragraph below the heading; "" for none.
        diagrams: Caption and bins of each reliability diagram, and a table of their values that is closed at first.
        tables: Tables at the end of the section.
        is_wide: Whether the section needs the whole width of the page.
    """

    name: str
    heading: str
    text: str = ""
    diagrams: Sequence[tuple[str, Sequence[CalibrationBin], Table]] = ()
    tables: Sequence[Table] = ()
    is_wide: bool = False

    @property
    def anchor(self) -> str:
        """The name as part of an HTML id."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower())


@dataclass(frozen=True)
class ReportPage:
    """Content of the page.

    Attributes:
        title: Heading of the page.
        facts: Name and value of what was evaluated.
        headlines: Name, value and confidence interval ("" for none) of the most important metrics.
        sections: The other metrics.
        scores: Results of every image.
        thumbnails: Path of each image's thumbnail relative to the page, in the order of `scores`; "" for none.
        worst: Position in `scores` and close-up of the worst images, the worst first.
        best: The same of the best images, the best first.
        links: Text of links to other pages, and their paths relative to this one.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    headlines: Sequence[tuple[str, str, str]]
    sections: Sequence[Section]
    scores: Sequence[ImageScore]
    thumbnails: Sequence[str]
    worst: Sequence[tuple[int, GalleryImage]] = ()
    best: Sequence[tuple[int, GalleryImage]] = ()
    links: Sequence[tuple[str, str]] = ()


def write_report_page(path: Path, page: ReportPage) -> None:
    """Write the page, atomically.

    Raises:
        PanformerError: The file cannot be written.
    """
    close_ups = [*page.worst, *page.best]
    content = {
        "page": page,
        "all_images": _all_images(page, [number for number, _ in close_ups]),
        "data": ImageData([image for _, image in close_ups]),
        "hidden_layers": (),
    }
    write_page(path, "report.html", page.title, page.facts, **content)


def _all_images(page: ReportPage, close_ups: Sequence[int]) -> Table:
    positions = {number: position for position, number in enumerate(close_ups)}
    rows: list[list[Cell]] = [
        [
            Label(score.file_name, thumbnail=thumbnail, close_up=positions.get(score.number)),
            score.pq,
            score.lost,
            score.matched,
            score.false_positives,
            score.missed,
        ]
        for score, thumbnail in zip(page.scores, page.thumbnails, strict=True)
    ]
    headers = ["Image", "PQ", "Lost", "TP", "FP", "FN"]
    note = "Lost: the sum of 1 - IoU over all matched pairs, plus 0.5 per false positive or missed segment."
    return Table("Images", headers, rows, note)
