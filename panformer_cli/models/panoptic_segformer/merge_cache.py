"""One image made ready for merging at any thresholds: regions in place of pixels.

Merging at other thresholds needs no mask values again: the scores are known, and a region of pixels that the same
candidates want has one fate. So an image is cut into such regions once, and merged and counted by region: some hundred
numbers in place of some hundred thousand, with exactly the result that the pixels give.
Letters for shapes: n candidates, K regions, T ground truth segments.
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
from panformer_cli.models.panoptic_segformer.postprocessing import Candidates, Floats
from panformer_cli.models.panoptic_segformer.settings import MergingSettings
from panformer_cli.storage.files import atomic_write

Bools = npt.NDArray[np.bool_]
_NO_BOX = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class MergeCache:
    """An image whose pixels are grouped by the candidates that want them.

    image_id, file_name, size, truth: as in `ImageOverlap`.
    shared: (3, m) the pairs of a ground truth row and a region with pixels in common, and how many: row of
        `ImageOverlap.overlap`, region, pixels. Region K are the pixels that nobody wants.
    wanted: (n, K), which candidate wants which region.
    labels: (n,) of the category table, and scores: (n,) float32, in descending score.
    """

    image_id: int | str
    file_name: str
    size: tuple[int, int]
    truth: tuple[Segment, ...]
    shared: IntArray
    wanted: Bools
    labels: IntArray
    scores: Floats

    @cached_property
    def pixels(self) -> IntArray:
        """(K + 1,) pixels of every region."""
        _, regions, pixels = self.shared
        return np.bincount(regions, weights=pixels, minlength=self.wanted.shape[1] + 1).astype(np.int64)

    @cached_property
    def regions(self) -> list[npt.NDArray[np.intp]]:
        """Of every candidate the regions that it wants."""
        return [np.flatnonzero(row) for row in self.wanted]

    def overlap(self, settings: MergingSettings, categories: CategoryTable) -> ImageOverlap:
        """The record of what `merge_masks` gives at the thresholds of `settings`, but for the boxes, which are 0.

        No threshold may be below that of `cache_of`.
        """
        owner = np.full(len(self.pixels), -1)  # place of every region's segment, -1 for void
        found: list[tuple[int, float]] = []  # label and score of the segments
        stuff_places: dict[int, int] = {}
        for index in np.flatnonzero(self.scores >= settings.score_threshold).tolist():
            label, regions = int(self.labels[index]), self.regions[index]
            is_thing = label < categories.num_things
            free = regions[owner[regions] < 0]
            area, left = int(self.pixels[regions].sum()), int(self.pixels[free].sum())
            allowed = settings.thing_overlap if is_thing else settings.stuff_overlap
            if area == 0 or (area - left) / area > allowed or left == 0:
                continue
            place = len(found) if is_thing else stuff_places.setdefault(label, len(found))
            if place == len(found):
                found.append((label, float(self.scores[index])))
            owner[free] = place
        return self._record(owner, found, categories)

    def _record(self, owner: IntArray, found: list[tuple[int, float]], categories: CategoryTable) -> ImageOverlap:
        rows, regions, pixels = self.shared
        shape = len(self.truth) + 2, len(found) + 1
        cells = rows * shape[1] + owner[regions] % shape[1]  # void, -1, is the last column
        overlap = np.bincount(cells, weights=pixels, minlength=shape[0] * shape[1]).astype(np.int64).reshape(shape)
        areas = overlap.sum(axis=0).tolist()
        predictions = tuple(
            Segment(place + 1, categories.by_label(label).id, areas[place], _NO_BOX, score=score)
            for place, (label, score) in enumerate(found)
        )
        return ImageOverlap(self.image_id, self.file_name, self.size, self.truth, predictions, overlap)

    def save(self, path: Path) -> None:
        """Write an .npz file of some ten kilobytes, atomically."""
        truth = [[s.id, s.category_id, s.area, list(s.bbox), s.is_crowd] for s in self.truth]
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                description=np.array(json.dumps([self.image_id, self.file_name, list(self.size), truth])),
                shared=self.shared.astype(np.int32),
                wanted=np.packbits(self.wanted, axis=0),
                labels=self.labels.astype(np.int16),
                scores=self.scores,
            )

    @classmethod
    def load(cls, path: Path) -> MergeCache:
        """What `save` wrote.

        Raises:
            DataError: the file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            image_id, file_name, (height, width), rows = json.loads(str(arrays["description"]))
            shared, labels = arrays["shared"].astype(np.int64), arrays["labels"].astype(np.int64)
            wanted = np.unpackbits(arrays["wanted"], axis=0, count=len(labels)).astype(np.bool_)
            scores = arrays["scores"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{path} is damaged: {error}; delete it, and run again") from error
        truth = tuple(Segment(number, of, area, tuple(box), crowd) for number, of, area, box, crowd in rows)
        return cls(image_id, file_name, (height, width), truth, shared, wanted, labels, scores)


def cache_of(candidates: Candidates, sample: Sample, least: float) -> MergeCache:
    """Group the pixels of an image.

    sample: the ground truth of the same image. least: the lowest score threshold that will be asked for.

    Raises:
        DataError: as `metrics.image_overlap.compare`.
    """
    scores = candidates.scores(least)
    order = np.argsort(-scores, kind="stable")
    order = order[(scores[order] >= least) & (scores[order] > 0)]
    ids, wanted = _regions(candidates, order)
    listed = tuple(Segment(number, 0, 0, _NO_BOX) for number in range(1, wanted.shape[1] + 1))
    record = compare(PanopticMap(ids, listed), sample.annotation, sample.image_id, sample.file_name)
    rows, regions = np.nonzero(record.overlap)
    shared = np.stack([rows, regions, record.overlap[rows, regions]])
    labels = candidates.labels[order]
    return MergeCache(
        sample.image_id, sample.file_name, record.size, record.truth, shared, wanted, labels, scores[order]
    )


def _regions(candidates: Candidates, order: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.int32], Bools]:
    """(H, W) number of every pixel's region, 0 where no candidate of `order` wants it; and (n, K) who wants which.

    Eight masks are held in a byte of every pixel. Equal bytes are looked for among the ends of runs, not all pixels.
    """
    height, width = candidates.size
    bits = np.zeros((max(1, -(-len(order) // 8)), height * width), np.uint8)
    for place, index in enumerate(order.tolist()):
        bits[place // 8] |= candidates.binary(index).reshape(-1).astype(np.uint8) << np.uint8(7 - place % 8)
    changes = np.zeros(max(height * width - 1, 0), np.bool_)
    for row in bits:
        changes |= row[1:] != row[:-1]
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    kinds, numbers = _distinct(np.ascontiguousarray(bits[:, starts].T))
    ids = np.repeat(numbers, np.diff(starts, append=height * width)).reshape(height, width)
    wanted = np.unpackbits(kinds.T, axis=0, count=len(order)).astype(np.bool_)
    return ids.astype(np.int32), wanted


def _distinct(rows: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], Any]:
    """The different rows but that of zeros, (K, bytes); and the number of every row, from 1, 0 for zeros."""
    as_one = rows.view(np.dtype((np.void, rows.shape[1]))).reshape(-1)  # bytes compared as one value
    kinds, numbers = np.unique(as_one, return_inverse=True)
    found = kinds.view(np.uint8).reshape(-1, rows.shape[1])
    if not found[0].any():  # zeros are the least of all
        return found[1:], numbers
    return found, numbers + 1
