"""Write the HTML report of an evaluation from the files in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.annotation_index import open_annotation
from panformer_cli.data.coco.panoptic_json import read_predictions
from panformer_cli.engine.evaluation.compare import read_overlaps
from panformer_cli.engine.evaluation.evaluate import read_metrics
from panformer_cli.engine.evaluation.report_images import (
    CloseUps,
    EvaluatedFiles,
    ImageFiles,
    ScoredImage,
    write_close_up,
    write_thumbnail,
)
from panformer_cli.engine.results import ANALYSIS, RECORDS
from panformer_cli.metrics.image_overlap import ImageOverlap
from panformer_cli.metrics.matching import match_segments
from panformer_cli.pages.replacing import replaced_page
from panformer_cli.pages.report.images import ImageScore
from panformer_cli.pages.report.page import ReportPage, write_report_page
from panformer_cli.pages.report.sections import facts, headlines, sections
from panformer_cli.reporting import Reporter

CLOSE_UPS = 12
"""Number of worst images, and of best images, that get a close-up."""

_THREADS = 8
"""Threads that write thumbnails, which mostly wait for the disk."""


@dataclass(frozen=True)
class ReportRequest:
    """What the report shows.

    Attributes:
        out: Folder for index.html and images/, which has thumbnails of all images and close-ups of some.
        metrics: Content of metrics.json. `panoptic` fills the headlines and the table of classes, `intervals`
            (`QualityIntervals.to_json`) their intervals. All other metrics get tables.
        analysis: Content of analysis.json.
        categories: Categories of the image overlaps.
        files: Return the files of an image, given its id.
        links: Text of links to other pages, and their paths relative to `out`.
    """

    out: Path
    metrics: Mapping[str, Any]
    analysis: Mapping[str, Any]
    categories: CategoryTable
    files: Callable[[int | str], ImageFiles]
    links: Sequence[tuple[str, str]] = ()


def report_evaluation(evaluation: Path, out: Path, reporter: Reporter, links: Sequence[tuple[str, str]] = ()) -> Path:
    """Write the report of an evaluation folder to `out`, and return the path of its page; `links` as in the request.

    Raises:
        PanformerError: A file of the evaluation, or an image, is missing or corrupt.
    """
    metrics = read_metrics(evaluation)
    truth = open_annotation(evaluation / metrics["annotation"])
    predictions = read_predictions(evaluation / metrics["predictions"], truth.categories)
    request = ReportRequest(
        out,
        metrics,
        json.loads((evaluation / ANALYSIS).read_text(encoding="utf-8")),
        truth.categories,
        EvaluatedFiles(evaluation, metrics, truth, predictions),
        links,
    )
    return write_report(request, read_overlaps(evaluation / RECORDS), metrics["images"], reporter)


def write_report(request: ReportRequest, overlaps: Iterable[ImageOverlap], total: int, reporter: Reporter) -> Path:
    """Write the report, and return the path of its page. It replaces an earlier page and its images as a whole.

    Args:
        request: What the report shows.
        overlaps: One per evaluated image, read once. Only those of the worst and best images are kept in memory.
        total: Number of overlaps.
        reporter: Shows the progress.

    Raises:
        PanformerError: An image or a PNG cannot be read, or a file cannot be written.
    """
    with replaced_page(request.out) as folder:
        page = _write(replace(request, out=folder), overlaps, total, reporter)
        return request.out / page.name


def _write(request: ReportRequest, overlaps: Iterable[ImageOverlap], total: int, reporter: Reporter) -> Path:
    scores: list[ImageScore] = []
    thumbnails: list[Future[str]] = []
    close_ups = CloseUps(CLOSE_UPS)
    with ThreadPoolExecutor(_THREADS) as pool, reporter.progress("Report", total) as progress:
        for number, overlap in enumerate(overlaps):
            files = request.files(overlap.image_id)
            thumbnails.append(pool.submit(write_thumbnail, request.out, number, overlap.size[1], files.photo))
            matching = match_segments(overlap, request.categories)
            scores.append(ImageScore.of(number, overlap, matching))
            if files.truth and files.prediction:
                close_ups.offer(ScoredImage(scores[-1], overlap, matching))
            progress.advance()
    return _write_page(request, scores, [thumbnail.result() for thumbnail in thumbnails], close_ups)


def _write_page(request: ReportRequest, scores: list[ImageScore], thumbnails: list[str], close_ups: CloseUps) -> Path:
    worst, best = (
        [
            (
                image.score.number,
                write_close_up(request.out, image, request.files(image.overlap.image_id), request.categories),
            )
            for image in images
        ]
        for images in (close_ups.worst(), close_ups.best())
    )
    page = ReportPage(
        "Panoptic evaluation",
        facts(request.metrics),
        headlines(request.metrics),
        sections(request.metrics, request.analysis, request.categories),
        scores,
        thumbnails,
        worst,
        best,
        request.links,
    )
    path = request.out / "index.html"
    write_report_page(path, page)
    return path
