"""How sure a PQ is: intervals from images drawn again and again, for one set of predictions or two on the same images.

The percentile bootstrap over images (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 16):
as many images as there are, drawn with replacement, stand for another validation set of that size. PQ is a function of
sums over images, so all resamples together are one product of a matrix of draws with a sparse table of counts.
Intervals are too narrow where many categories are rare: on made-up data of 400 images and 20 categories 94 of 100 held
the true PQ with all categories frequent, 93 with half of them in 8 images each, 82 with half of them in 2 images each.
Letters for shapes: N images, L labels, R resamples.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from panformer_cli.data.categories import CategoryTable
from panformer_cli.errors import DataError
from panformer_cli.metrics.matching import Matching, match_segments
from panformer_cli.metrics.records import FloatArray, ImageRecord, IntArray

CONFIDENCE = 95
"""Percent of the resamples inside an interval."""
FIGURES = ("pq", "sq", "rq")
GROUPS = ("all", "things", "stuff")
_DRAWS_AT_ONCE = 2**19
"""Numbers in a matrix of draws, 8 bytes each: large sets take several matrices, not more memory."""


class Interval(NamedTuple):
    """The ends of an interval, in the unit of what it is of."""

    low: float
    high: float


@dataclass(frozen=True)
class GroupInterval:
    """Intervals of the means over a group of categories: PQ, SQ and RQ, percent; of a difference, points."""

    pq: Interval
    sq: Interval
    rq: Interval


@dataclass(frozen=True)
class QualityIntervals:
    """Intervals for all categories, the things and the stuff."""

    all: GroupInterval
    things: GroupInterval
    stuff: GroupInterval

    def to_json(self) -> dict[str, dict[str, list[float]]]:
        """`{"all": {"pq": [low, high], "sq": ..., "rq": ...}, "things": ..., "stuff": ...}`."""
        return {group: {name: list(ends) for name, ends in of.items()} for group, of in asdict(self).items()}


@dataclass(frozen=True)
class PairedIntervals:
    """Two sets of predictions, `first` and `second`, with the same images in every resample.

    difference: intervals of second - first, points; narrower than the other two let expect, since both sets find the
        same images hard.
    better: share of the resamples, 0..1, in which the second has the higher PQ, for each of `GROUPS`.
    """

    first: QualityIntervals
    second: QualityIntervals
    difference: QualityIntervals
    better: dict[str, float]


class ImageCounts:
    """What PQ is summed from, image by image: IoU of the matches, TP, FP and FN of every category that occurs.

    About 100 bytes an image and 24 bytes a category that occurs in it: 500 bytes for an image of COCO.
    """

    def __init__(self, categories: CategoryTable) -> None:
        self.categories = categories
        self._places: dict[int | str, int] = {}
        self._rows = array("q")  # of each image: its categories
        self._labels = array("i")
        self._iou = array("d")
        self._counts = array("i")  # tp, fp, fn of every row

    def __len__(self) -> int:
        return len(self._places)

    def update(self, record: ImageRecord) -> None:
        """Add an image by the rules of `match_segments`, which also says what it raises."""
        self.add(record.image_id, match_segments(record, self.categories))

    def add(self, image_id: int | str, matching: Matching) -> None:
        """Add the matched, wrong and missed segments of an image.

        Raises:
            DataError: the image was added before.
        """
        matched = matching.labels[matching.columns]
        wrong, missed = matching.labels[matching.wrong], matching.truth_labels[matching.missed]
        labels, rows = np.unique(np.concatenate([matched, wrong, missed]), return_inverse=True)
        kinds = np.repeat([0, 1, 2], [len(matched), len(wrong), len(missed)])
        counts = np.bincount(3 * rows + kinds, minlength=3 * len(labels))
        iou = np.bincount(rows[: len(matched)], weights=matching.iou, minlength=len(labels)).astype(np.float64)
        self._append(image_id, labels, iou, counts)

    def merge(self, other: ImageCounts) -> None:
        """Add the images of `other`, which must have an equal category table and none of the same images."""
        if other.categories != self.categories:
            raise DataError("two sets of counts have different category tables; expected one table for both")
        ends = np.cumsum(other._rows)
        for image_id, end, rows in zip(other._places, ends.tolist(), other._rows, strict=True):
            part = slice(end - rows, end)
            counts = np.array(other._counts[3 * part.start : 3 * end], np.int64)
            self._append(image_id, np.array(other._labels[part]), np.array(other._iou[part]), counts)

    def images(self) -> list[int | str]:
        """The ids in the order of `table`: ascending, numbers before texts, however the images came."""
        return sorted(self._places, key=lambda image_id: (isinstance(image_id, str), image_id))

    def table(self) -> sparse.csr_array:
        """(N, 4 L) float64: for every image sum of IoUs, TP, FP and FN, each of all labels."""
        values = np.column_stack([self._iou, np.reshape(self._counts, (-1, 3))])
        places = np.repeat(np.arange(len(self)), self._rows)
        columns = np.asarray(self._labels)[:, None] + len(self.categories) * np.arange(4)
        shape = (len(self), 4 * len(self.categories))
        found = sparse.csr_array((values.ravel(), (np.repeat(places, 4), columns.ravel())), shape=shape)
        return found[[self._places[image_id] for image_id in self.images()]]

    def _append(self, image_id: int | str, labels: IntArray, iou: FloatArray, counts: IntArray) -> None:
        if self._places.setdefault(image_id, len(self._places)) != len(self._rows):
            raise DataError(f"image {image_id} was counted before; expected every image once")
        self._rows.append(len(labels))
        self._labels.frombytes(labels.astype(np.intc).tobytes())
        self._iou.frombytes(iou.tobytes())
        self._counts.frombytes(counts.astype(np.intc).tobytes())


def quality_intervals(counts: ImageCounts, resamples: int = 1000, seed: int = 0) -> QualityIntervals:
    """Intervals of PQ, SQ and RQ.

    Raises:
        DataError: there is no image, or no resample is asked for.
    """
    return _intervals(resampled_quality(counts, resamples, seed))


def paired_intervals(first: ImageCounts, second: ImageCounts, resamples: int = 1000, seed: int = 0) -> PairedIntervals:
    """Intervals of two sets of predictions and of their difference.

    Raises:
        DataError: the sets are not of the same images or categories; and as `quality_intervals`.
    """
    if len(first.categories) != len(second.categories) or first.images() != second.images():
        raise DataError("the two sets of predictions differ in their images or categories; expected the same in both")
    one, other = resampled_quality(first, resamples, seed), resampled_quality(second, resamples, seed)
    difference = other - one
    better = (difference[:, :, FIGURES.index("pq")] > 0).mean(axis=0)
    return PairedIntervals(
        _intervals(one), _intervals(other), _intervals(difference), dict(zip(GROUPS, better.tolist(), strict=True))
    )


def resampled_quality(counts: ImageCounts, resamples: int, seed: int) -> FloatArray:
    """(R, 3, 3) percent: of every resample the `FIGURES` of the `GROUPS`.

    The draws belong to the seed and the number of images: two sets of the same images are resampled alike.
    """
    if not len(counts) or resamples < 1:
        raise DataError(
            f"{resamples} resamples of {len(counts)} images were asked for; expected at least 1 of at least 1 image"
        )
    table = counts.table().T.tocsr()
    parts = [
        group_quality((table @ draws).reshape(4, len(counts.categories), -1), counts.categories)
        for draws in _draws(len(counts), resamples, seed)
    ]
    return np.concatenate(parts)


def image_quality(counts: ImageCounts) -> FloatArray:
    """(N,) percent: the PQ of every image alone, in the order of `counts.images()`."""
    table = counts.table()
    parts = [
        group_quality(table[start : start + 1000].toarray().T.reshape(4, len(counts.categories), -1), counts.categories)
        for start in range(0, len(counts), 1000)  # a full table of many images would be large
    ]
    return np.concatenate([part[:, GROUPS.index("all"), FIGURES.index("pq")] for part in parts])


def group_quality(totals: FloatArray, categories: CategoryTable) -> FloatArray:
    """(R, 3, 3) percent: the `FIGURES` of the `GROUPS`, by the rules of `metrics.quality`.

    totals: (4, L, R) sums of IoUs, TP, FP and FN.
    """
    iou, tp, fp, fn = totals
    segments = tp + fp / 2 + fn / 2
    counting = segments > 0
    divided = np.where(counting, segments, 1)
    figures = np.stack([iou / divided, iou / np.where(tp > 0, tp, 1), tp / divided])  # 0 where nothing is to divide
    things = np.arange(len(categories)) < categories.num_things
    groups = np.stack([np.ones_like(things), things, ~things]).astype(np.float64)  # (3, L)
    sums = np.einsum("gl,flr->rgf", groups, figures, optimize=True)
    numbers = (groups @ counting).T[:, :, None]  # (R, 3, 1)
    means: FloatArray = 100 * sums / np.maximum(numbers, 1)
    return means


def _draws(images: int, resamples: int, seed: int) -> Iterator[FloatArray]:
    """Matrices (N, R'), together R columns: how often each image is in each resample."""
    random = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // images)
    for start in range(0, resamples, at_once):
        columns = [
            np.bincount(random.integers(images, size=images), minlength=images)
            for _ in range(min(at_once, resamples - start))
        ]
        yield np.stack(columns, axis=1).astype(np.float64)


def _intervals(values: FloatArray) -> QualityIntervals:
    """The middle `CONFIDENCE` percent of (R, 3, 3) values."""
    tail = (100 - CONFIDENCE) / 2
    ends: Any = np.percentile(values, [tail, 100 - tail], axis=0)  # (2, 3, 3)
    groups = [
        GroupInterval(*(Interval(low, high) for low, high in zip(*group, strict=True)))
        for group in ends.transpose(1, 0, 2).tolist()
    ]
    return QualityIntervals(*groups)
