"""The report of an evaluation: `DIR/index.html` and its pictures, from the records of the images."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_png import read_panoptic_png
from panformer_cli.data.images import decode, read_bytes, read_image
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray, Segment
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.files import atomic_write
from panformer_cli.metrics.image_overlap import ImageOverlap
from panformer_cli.metrics.matching import Matching, match_segments
from panformer_cli.pages.report.figures import facts, headlines, parts
from panformer_cli.pages.report.images import (
    ImageLayers,
    ImageScore,
    Side,
    describe_segments,
    map_runs,
    shown_size,
)
from panformer_cli.pages.report.page import ReportContent, page_html
from panformer_cli.reporting import Reporter

THUMBNAIL_WIDTH = 128
"""Pixels, half as many again as on the page, for screens with a higher density: about 4 KB a picture."""

_WRITERS = 8
"""Threads that make small pictures."""

_REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))


@dataclass(frozen=True)
class ImageFiles:
    """The files of one image.

    photo: the image itself; None: the page shows its maps without it.
    truth, prediction: the panoptic PNGs; where one is None the image cannot be looked at closely.
    """

    photo: Path | None = None
    truth: Path | None = None
    prediction: Path | None = None


@dataclass(frozen=True)
class ReportRequest:
    """What the report is made of.

    out: the folder; gets index.html, and images/ with small pictures of all images and large ones of some.
    figures: the content of metrics.json. Its `panoptic` fills the headlines and the table of classes, `intervals`
        (`QualityIntervals.to_json`) their intervals; all other figures get tables.
    categories: of the records.
    files: image id to the files of the image.
    analysis: why points of PQ were lost, as JSON.
    closeups: how many of the worst images, and of the best, can be looked at closely.
    """

    out: Path
    figures: Mapping[str, Any]
    categories: CategoryTable
    files: Callable[[int | str], ImageFiles]
    analysis: Mapping[str, Any] | None = None
    closeups: int = 12
    title: str = "Panoptic evaluation"

    def __post_init__(self) -> None:
        if self.closeups < 0:
            raise PanformerError(f"{self.closeups} images to look at closely were asked for; expected 0 or more")


@dataclass(frozen=True)
class _Scored:
    """An image that may be shown closely."""

    score: ImageScore
    record: ImageOverlap
    matching: Matching


def write_report(request: ReportRequest, records: Iterable[ImageOverlap], total: int, reporter: Reporter) -> Path:
    """Write the report and give the path of its page.

    records: those of the evaluated images, `total` of them, read once; only the worst and the best are kept.

    Raises:
        PanformerError: a picture or a PNG cannot be read, or something cannot be written.
    """
    scores: list[ImageScore] = []
    thumbnails: list[Future[str]] = []
    candidates = _Candidates(request.closeups)
    # Most of the time of a small picture is waiting for the disk.
    with ThreadPoolExecutor(_WRITERS) as pool, reporter.progress("Report", total) as progress:
        for number, record in enumerate(records):
            files = request.files(record.image_id)
            thumbnails.append(pool.submit(_thumbnail, request.out, number, record.size[1], files.photo))
            matching = match_segments(record, request.categories)
            scores.append(ImageScore.of(number, record, matching))
            if files.truth and files.prediction:
                candidates.offer(_Scored(scores[-1], record, matching))
            progress.advance()
    paths = [thumbnail.result() for thumbnail in thumbnails]
    return _write_page(request, scores, paths, candidates)


def _write_page(
    request: ReportRequest, scores: list[ImageScore], thumbnails: list[str], candidates: _Candidates
) -> Path:
    content = ReportContent(
        request.title,
        facts(request.figures),
        headlines(request.figures),
        parts(request.figures, request.analysis, request.categories),
        scores,
        thumbnails,
        worst=[_layers(request, scored) for scored in candidates.worst()],
        best=[_layers(request, scored) for scored in candidates.best()],
    )
    page = request.out / "index.html"
    with atomic_write(page) as temporary:
        temporary.write_bytes(page_html(content).encode("utf-8", "replace"))
    return page


class _Candidates:
    """The images that lose most, and of the others those with the highest PQ, a few of each; earlier ones first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._offered = 0
        self._worst: list[tuple[float, int, _Scored]] = []
        self._best: list[tuple[tuple[float, int], int, _Scored]] = []

    def offer(self, scored: _Scored) -> None:
        """Keep the image if it is one of the worst or the best so far."""
        score = scored.score
        if score.pq is None:
            return
        self._offered += 1
        _keep(self._worst, (score.lost, -score.number, scored), self.most)
        _keep(self._best, ((score.pq, score.matched), -score.number, scored), 2 * self.most)  # some are worst as well

    def worst(self) -> list[_Scored]:
        """At most half of the images: the rest are better."""
        most = min(self.most, (self._offered + 1) // 2)
        return [scored for lost, _, scored in sorted(self._worst, reverse=True)[:most] if lost > 0]

    def best(self) -> list[_Scored]:
        taken = {scored.score.number for scored in self.worst()}
        good = [scored for *_, scored in sorted(self._best, reverse=True) if scored.score.number not in taken]
        return good[: self.most]


def _keep(heap: list[Any], entry: Any, most: int) -> None:
    heapq.heappush(heap, entry)
    if len(heap) > most:
        heapq.heappop(heap)


def _thumbnail(out: Path, number: int, width: int, photo: Path | None) -> str:
    """Write the small picture of a photo of that width; its path relative to the page, "" for none."""
    if photo is None:
        return ""
    picture = _small(photo, width / THUMBNAIL_WIDTH)
    height = max(1, round(picture.shape[0] * THUMBNAIL_WIDTH / picture.shape[1]))
    return _save(out, f"images/small/{number:06}.jpg", _resized(picture, (height, THUMBNAIL_WIDTH)))


def _small(photo: Path, shrink: float) -> ImageArray:
    """(H, W, 3) RGB, decoded at a half, a quarter or an eighth of its size where `shrink` allows: much faster."""
    flags = next((flag for factor, flag in _REDUCED if shrink >= factor), cv2.IMREAD_COLOR)
    picture = decode(read_bytes(photo, "image"), flags)
    if picture is None:
        raise DataError(f"{photo} cannot be decoded: it is damaged or no image; expected JPEG, PNG or a similar format")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def _resized(picture: ImageArray, size: tuple[int, int]) -> ImageArray:
    """The picture at (height, width) `size`."""
    return np.asarray(cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def _layers(request: ReportRequest, scored: _Scored) -> ImageLayers:
    record, files = scored.record, request.files(scored.record.image_id)
    assert files.truth and files.prediction, "only images with both maps are candidates"
    size = shown_size(record.size)
    photo = ""
    if files.photo is not None:
        picture = _resized(read_image(files.photo), size)
        photo = _save(request.out, f"images/large/{scored.score.number:06}.jpg", picture)
    truth, prediction = describe_segments(record, scored.matching, request.categories)
    return ImageLayers(
        scored.score,
        photo,
        size,
        Side(_runs(files.truth, record, record.truth, size), truth),
        Side(_runs(files.prediction, record, record.predictions, size), prediction),
    )


def _runs(png: Path, record: ImageOverlap, segments: tuple[Segment, ...], size: tuple[int, int]) -> list[int]:
    ids = read_panoptic_png(png)
    if ids.shape != record.size:
        height, width = ids.shape
        raise DataError(
            f"{png} is {width}x{height} and {record.file_name} was evaluated at {record.size[1]}x{record.size[0]}; "
            "expected the file that was evaluated"
        )
    return map_runs(ids, segments, size)


def _save(out: Path, path: str, picture: ImageArray) -> str:
    """Write a JPEG for the page; saved data sets have better ones."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    with atomic_write(out / path) as temporary:
        temporary.write_bytes(data.tobytes())
    return path
