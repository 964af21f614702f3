"""One image cached for merging at any thresholds, as regions instead of pixels.

Merging at other thresholds does not need the mask values again: the scores are known, and pixels that are claimed by
the same candidates always get the same segment. So the image is divided into such regions once. Merging and counting
regions gives exactly the result of merging pixels, with hundreds of numbers instead of hundreds of thousands.
Letters in shapes: n candidates, K regions, T ground truth segments.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import PanopticMap, Sample, Segment
from panformer_cli.errors import DataError
from panformer_cli.metrics.image_overlap import ImageOverlap, IntArray, compare
from panformer_cli.models.candidates import Bools, Floats
from panformer_cli.models.panoptic_segformer.postprocessing import Candidates
from panformer_cli.models.panoptic_segformer.settings import MergingSettings
from panformer_cli.storage.files import atomic_write

_NO_BOX = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class MergeCache:
    """An image whose pixels are grouped by the candidates that claim them.

    Attributes:
        image_id: as in `ImageOverlap`, like `file_name`, `size` and `truth`.
        shared: (3, m) row of `ImageOverlap.overlap`, region, and number of pixels, for each ground truth row and region
            that share pixels. Region K contains the pixels that no candidate claims.
        claims: (n, K), whether a candidate claims a region.
        labels: (n,), by descending score.
        scores: (n,) float32, descending.
    """

    image_id: int | str
    file_name: str
    size: tuple[int, int]
    truth: tuple[Segment, ...]
    shared: IntArray
    claims: Bools
    labels: IntArray
    scores: Floats

    @cached_property
    def pixels(self) -> IntArray:
        """The number of pixels in each region, (K + 1,)."""
        _, regions, pixels = self.shared
        return np.bincount(regions, weights=pixels, minlength=self.claims.shape[1] + 1).astype(np.int64)

    @cached_property
    def regions(self) -> list[npt.NDArray[np.intp]]:
        """The regions that each candidate claims."""
        return [np.flatnonzero(row) for row in self.claims]

    def overlap(self, settings: MergingSettings, categories: CategoryTable) -> ImageOverlap:
        """Return the overlap of the result of `merge_masks` at the thresholds of `settings`. Boxes are 0.

        The score threshold must not be lower than that of `cache_of`.
        """
        owner = np.full(len(self.pixels), -1)  # index of each region's segment, -1 for void
        found: list[tuple[int, float]] = []  # label and score of the segments
        stuff_indices: dict[int, int] = {}
        for index in np.flatnonzero(self.scores >= settings.score_threshold).tolist():
            label, regions = int(self.labels[index]), self.regions[index]
            is_thing = label < categories.num_things
            free = regions[owner[regions] < 0]
            area, left = int(self.pixels[regions].sum()), int(self.pixels[free].sum())
            allowed = settings.thing_overlap if is_thing else settings.stuff_overlap
            if area == 0 or (area - left) / area > allowed or left == 0:
                continue
            segment = len(found) if is_thing else stuff_indices.setdefault(label, len(found))
            if segment == len(found):
                found.append((label, float(self.scores[index])))
            owner[free] = segment
        return self._record(owner, found, categories)

    def _record(self, owner: IntArray, found: list[tuple[int, float]], categories: CategoryTable) -> ImageOverlap:
        rows, regions, pixels = self.shared
        shape = len(self.truth) + 2, len(found) + 1
        cells = rows * shape[1] + owner[regions] % shape[1]  # void, -1, is the last column
        overlap = np.bincount(cells, weights=pixels, minlength=shape[0] * shape[1]).astype(np.int64).reshape(shape)
        areas = overlap.sum(axis=0).tolist()
        predictions = tuple(
            Segment(index + 1, categories.by_label(label).id, areas[index], _NO_BOX, score=score)
            for index, (label, score) in enumerate(found)
        )
        return ImageOverlap(self.image_id, self.file_name, self.size, self.truth, predictions, overlap)

    def save(self, path: Path) -> None:
        """Write an .npz file, usually of some tens of kilobytes, atomically."""
        truth = [[s.id, s.category_id, s.area, list(s.bbox), s.is_crowd] for s in self.truth]
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                description=np.array(json.dumps([self.image_id, self.file_name, list(self.size), truth])),
                shared=self.shared.astype(np.int32),
                wanted=np.packbits(self.claims, axis=0),
                labels=self.labels.astype(np.int16),
                scores=self.scores,
            )

    @classmethod
    def load(cls, path: Path) -> MergeCache:
        """Read a file that `save` wrote.

        Raises:
            DataError: the file is corrupt.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            image_id, file_name, (height, width), rows = json.loads(str(arrays["description"]))
            shared, labels = arrays["shared"].astype(np.int64), arrays["labels"].astype(np.int64)
            claims = np.unpackbits(arrays["wanted"], axis=0, count=len(labels)).astype(np.bool_)
            scores = arrays["scores"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{path} is corrupt: {error}; delete it and run the command again") from error
        truth = tuple(Segment(number, of, area, tuple(box), crowd) for number, of, area, box, crowd in rows)
        return cls(image_id, file_name, (height, width), truth, shared, claims, labels, scores)


def cache_of(candidates: Candidates, sample: Sample, least: float) -> MergeCache:
    """Return an image with its pixels grouped by the candidates that claim them.

    Args:
        candidates: candidates of the image.
        sample: the same image with its ground truth.
        least: the lowest score threshold that the cache must support.

    Raises:
        DataError: see `metrics.image_overlap.compare`.
    """
    scores = candidates.scores(least)
    order = np.argsort(-scores, kind="stable")
    order = order[(scores[order] >= least) & (scores[order] > 0)]
    ids, claims = _regions(candidates, order)
    listed = tuple(Segment(number, 0, 0, _NO_BOX) for number in range(1, claims.shape[1] + 1))
    record = compare(PanopticMap(ids, listed), sample.annotation, sample.image_id, sample.file_name)
    rows, regions = np.nonzero(record.overlap)
    shared = np.stack([rows, regions, record.overlap[rows, regions]])
    labels = candidates.labels[order]
    return MergeCache(
        sample.image_id, sample.file_name, record.size, record.truth, shared, claims, labels, scores[order]
    )


def _regions(candidates: Candidates, order: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.int32], Bools]:
    """Return the region number of each pixel, (H, W), 0 for unclaimed pixels, and which candidate claims it, (n, K).

    Eight masks are packed into a byte per pixel. Bytes are compared only at the starts of runs, not at all pixels.
    """
    height, width = candidates.size
    bits = np.zeros((max(1, -(-len(order) // 8)), height * width), np.uint8)
    for rank, index in enumerate(order.tolist()):
        bits[rank // 8] |= candidates.binary(index).reshape(-1).astype(np.uint8) << np.uint8(7 - rank % 8)
    changes = np.zeros(max(height * width - 1, 0), np.bool_)
    for row in bits:
        changes |= row[1:] != row[:-1]
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    patterns, numbers = _distinct(np.ascontiguousarray(bits[:, starts].T))
    ids = np.repeat(numbers, np.diff(starts, append=height * width)).reshape(height, width)
    claims = np.unpackbits(patterns.T, axis=0, count=len(order)).astype(np.bool_)
    return ids.astype(np.int32), claims


def _distinct(rows: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], Any]:
    """Return the distinct nonzero rows, (K, bytes), and the number of each row, from 1, or 0 for zeros."""
    as_one = rows.view(np.dtype((np.void, rows.shape[1]))).reshape(-1)  # bytes compared as one value
    distinct, numbers = np.unique(as_one, return_inverse=True)
    found = distinct.view(np.uint8).reshape(-1, rows.shape[1])
    if not found[0].any():  # zeros sort first
        return found[1:], numbers
    return found, numbers + 1
