"""Sample pages with every kind of content."""

from __future__ import annotations

from typing import Any

from panformer_cli.pages.base import Bar, Table
from panformer_cli.pages.chart import Chart, Series
from panformer_cli.pages.gallery.images import FoundSegment, GalleryImage
from panformer_cli.pages.gallery.page import GalleryPage
from panformer_cli.pages.report.images import ImageScore
from panformer_cli.pages.report.page import CalibrationBin, ReportPage, Section


def gallery_image(text: str = "x", path: str = "a.jpg") -> GalleryImage:
    """Return an image whose texts are `text` and whose files are called `path`."""
    segments = (FoundSegment(text, (1, 2, 3), 0.9), FoundSegment(text, (1, 2, 3), 0.5))
    return GalleryImage(text, text, path, (30, 40), path, f"{path}.js", (60, 80), segments, path)


def gallery_page(text: str = "x", path: str = "a.jpg") -> GalleryPage:
    return GalleryPage(
        text,
        [(text, text)],
        [Table(text, [text], [[text]], text)],
        [Chart(text, [Series(text, [(0, 1), (1, 2)])], text, text)],
        [gallery_image(text, path)],
    )


def report_page(text: str = "x", **changes: Any) -> ReportPage:
    table = Table(text, [text], [[text]] * 9, text)
    bins = [CalibrationBin(0.25, 0.25, 4)]
    rows = Table(text, [text, text], [[text, Bar(1.0, 2.0)]], text)
    section = Section(text, text, text, [(text, bins, rows)], [table])
    score = ImageScore(0, text, 1, 2, 3, 2.7, 20.0)
    settings: dict[str, Any] = {"worst": [(0, gallery_image(text))], "thumbnails": ["a.jpg"], **changes}
    return ReportPage(text, [(text, text)], [(text, text, text)], [section], [score], **settings)


def split_summary(text: str = "x") -> dict[str, Any]:
    """Return a summary in the format of `SplitSummary.to_json`."""
    counts = {"segments": 12, "crowd": 1, "images": 2, "pixels": 34_567}
    empty = dict.fromkeys(counts, 0)
    return {
        "images": 1234,
        "segments": 12,
        "things": 12,
        "stuff": 0,
        "crowd": 1,
        "void_share": 0.125,
        "categories": [
            {"id": 1, "name": "sky", "isthing": 0, **empty},
            {"id": 2, "name": text, "isthing": 1, "color": [1, 2, 3], **counts},
        ],
        "image_sizes": [[480, 640, 2], *([100, width, 1] for width in range(30))],
        "segments_per_image": [[5, 1], [7, 1]],
        "segment_sizes": {"small": 3, "medium": 6, "large": 2},
        "left_out": [text],
        "annotations_left_out": [],
        "annotations_changed": [],
    }
