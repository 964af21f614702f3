"""The images of a report: thumbnails, the selection of close-ups, and their layers."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.image_pairing import pair_images
from panformer_cli.data.coco.panoptic_annotation import PanopticAnnotation
from panformer_cli.data.coco.panoptic_png import read_panoptic_png
from panformer_cli.data.image_formats import is_jpeg
from panformer_cli.data.images import decode, read_bytes, read_image
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray, PanopticMap, Segment
from panformer_cli.errors import DataError
from panformer_cli.metrics.image_overlap import ImageOverlap
from panformer_cli.metrics.matching import Matching
from panformer_cli.pages.gallery.images import GalleryImage, resized, write_image
from panformer_cli.pages.gallery.layers import ShownMap
from panformer_cli.pages.report.images import ImageScore, describe_segments
from panformer_cli.storage.files import name_inside
from panformer_cli.visualization.drawing import save_image

THUMBNAIL_WIDTH = 128
"""Pixels, 1.5 times the width on the page, for high-density screens: about 4 KB per image."""

_REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))


@dataclass(frozen=True)
class ImageFiles:
    """The files of one image.

    Attributes:
        photo: The image itself; if None, the page shows only its maps.
        truth: Panoptic PNG of the ground truth. Without it the image has no close-up.
        prediction: Panoptic PNG of the prediction. Without it the image has no close-up.
    """

    photo: Path | None = None
    truth: Path | None = None
    prediction: Path | None = None


class EvaluatedFiles:
    """The files of an evaluation's images: return those of an image, given its id."""

    def __init__(
        self, evaluation: Path, metrics: Mapping[str, Any], truth: PanopticAnnotation, predictions: PanopticAnnotation
    ) -> None:
        self._truth = {info.id: info for info in truth.images}
        self._predicted = pair_images(truth, predictions).partners(truth, predictions)
        self._folders = {name: evaluation / metrics[name] for name in ("photos", "truth_pngs", "predicted_pngs")}
        self._where = metrics["annotation"]

    def __call__(self, image_id: int | str) -> ImageFiles:
        info = self._truth[image_id]
        names = {
            "photos": info.file_name,
            "truth_pngs": info.png_name,
            "predicted_pngs": self._predicted[image_id].png_name,
        }
        paths = {kind: name_inside(self._folders[kind], name, self._where) for kind, name in names.items()}
        photo = paths["photos"] if paths["photos"].is_file() else None
        return ImageFiles(photo, paths["truth_pngs"], paths["predicted_pngs"])


@dataclass(frozen=True)
class ScoredImage:
    """An image that may get a close-up."""

    score: ImageScore
    overlap: ImageOverlap
    matching: Matching


class CloseUps:
    """Select the images with the largest loss, and from the others those with the highest PQ; the first wins a tie."""

    def __init__(self, most: int) -> None:
        """Keep at most `most` of the worst images and as many of the best."""
        self.most = most
        self._offered = 0
        self._worst: list[tuple[float, int, ScoredImage]] = []
        self._best: list[tuple[tuple[float, int], int, ScoredImage]] = []

    def offer(self, image: ScoredImage) -> None:
        """Keep the image if it is one of the worst or the best so far."""
        score = image.score
        if score.pq is None:
            return
        self._offered += 1
        _keep(self._worst, (score.lost, -score.number, image), self.most)
        _keep(self._best, ((score.pq, score.matched), -score.number, image), 2 * self.most)  # some are worst as well

    def worst(self) -> list[ScoredImage]:
        """Return the worst images, at most half of all, the worst first."""
        most = min(self.most, (self._offered + 1) // 2)
        return [image for lost, _, image in sorted(self._worst, reverse=True)[:most] if lost > 0]

    def best(self) -> list[ScoredImage]:
        """Return the best of the other images, the best first."""
        taken = {image.score.number for image in self.worst()}
        good = [image for *_, image in sorted(self._best, reverse=True) if image.score.number not in taken]
        return good[: self.most]


def _keep(heap: list[Any], entry: Any, most: int) -> None:
    heapq.heappush(heap, entry)
    if len(heap) > most:
        heapq.heappop(heap)


def write_thumbnail(out: Path, number: int, width: int, photo: Path | None) -> str:
    """Write the thumbnail of a photo and return its path relative to the page; "" without a photo.

    Args:
        out: Folder of the page.
        number: Position of the image in the report.
        width: Width of the photo, pixels.
        photo: The image file.

    Raises:
        PanformerError: The photo cannot be read, or the thumbnail cannot be written.
    """
    if photo is None:
        return ""
    pixels = _read_reduced(photo, width / THUMBNAIL_WIDTH)
    height = max(1, round(pixels.shape[0] * THUMBNAIL_WIDTH / pixels.shape[1]))
    return _save(out, f"images/rows/{number:06}.jpg", resized(pixels, (height, THUMBNAIL_WIDTH)))


def write_close_up(out: Path, image: ScoredImage, files: ImageFiles, categories: CategoryTable) -> GalleryImage:
    """Write what the viewer shows of an image; `files` must have both panoptic PNGs.

    Raises:
        PanformerError: A file cannot be read or written, or a PNG is not the evaluated one.
    """
    assert files.truth and files.prediction, "only images with both maps get a close-up"
    overlap, score = image.overlap, image.score
    truth, prediction = describe_segments(overlap, image.matching, categories)
    maps = (
        ShownMap("Ground truth", _map(files.truth, overlap, overlap.truth), categories, truth),
        ShownMap("Prediction", _map(files.prediction, overlap, overlap.predictions), categories, prediction),
    )
    pixels = None if files.photo is None else resized(read_image(files.photo), overlap.size)
    return write_image(out, f"{score.number:06}", score.file_name, pixels, maps, score.summary)


def _read_reduced(photo: Path, shrink: float) -> ImageArray:
    """Return (H, W, 3) RGB; a JPEG is decoded at 1/2, 1/4 or 1/8 of its size if `shrink` allows, which is faster."""
    flags = next((flag for factor, flag in _REDUCED if shrink >= factor), cv2.IMREAD_COLOR)
    data = read_bytes(photo, "image")
    pixels = decode(data, flags) if is_jpeg(data) else None
    return read_image(photo) if pixels is None else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _map(png: Path, overlap: ImageOverlap, segments: tuple[Segment, ...]) -> PanopticMap:
    ids = read_panoptic_png(png)
    if ids.shape != overlap.size:
        height, width = ids.shape
        raise DataError(
            f"{png} is {width}x{height} and {overlap.file_name} was evaluated at {overlap.size[1]}x{overlap.size[0]}; "
            "expected the file that was evaluated"
        )
    return PanopticMap(ids, segments)


def _save(out: Path, path: str, pixels: ImageArray) -> str:
    """Write a JPEG of moderate quality and return its path relative to the page."""
    save_image(out / path, pixels, jpeg_quality=80)
    return path
