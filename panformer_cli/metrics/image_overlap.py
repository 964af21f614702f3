"""The overlap of a predicted and a true panoptic map: their segments, and the pixels that each pair shares.

All panoptic metrics (PQ, mIoU, their analysis and intervals) are functions of image overlaps, so images can be compared
once, in any process and order, and their maps discarded.
Letters for shapes: T ground truth segments, P predicted segments of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from panformer_cli.data.structures import IdMap, PanopticMap, Segment
from panformer_cli.errors import DataError
from panformer_cli.wording import listing

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

VOID_ROW, UNLISTED_ROW, VOID_COLUMN = -2, -1, -1
"""The last rows and the last column of `ImageOverlap.overlap`."""


@dataclass(frozen=True)
class ImageOverlap:
    """The segments of one image in ground truth and prediction, and the pixels they share.

    Attributes:
        image_id: dataset id of the image.
        file_name: of the image, as in the annotation.
        size: height and width, in pixels.
        truth: the ground truth segments, with the areas listed in the annotation.
        predictions: the predicted segments.
        overlap: (T + 2, P + 1) pixels shared by a ground truth segment (row) and a predicted segment (column), in the
            order of `truth` and `predictions`. Row T is void in the ground truth, row T + 1 are pixels of ids that the
            annotation does not list; column P is predicted void.
        boundary_iou: (T, P) boundary IoU (`metrics.boundary`) of pairs that can match, 0 elsewhere; None if it was not
            computed.
    """

    image_id: int | str
    file_name: str
    size: tuple[int, int]
    truth: tuple[Segment, ...]
    predictions: tuple[Segment, ...]
    overlap: IntArray
    boundary_iou: FloatArray | None = None

    @property
    def shared(self) -> IntArray:
        """(T, P) pixels shared by two segments."""
        return self.overlap[:VOID_ROW, :VOID_COLUMN]

    @property
    def truth_pixels(self) -> IntArray:
        """(T,) pixels of the ground truth segments in the map; the listed areas should be equal."""
        pixels: IntArray = self.overlap[:VOID_ROW].sum(axis=1)
        return pixels

    @property
    def predicted_pixels(self) -> IntArray:
        """(P,) pixels of the predicted segments, 1 or more."""
        pixels: IntArray = self.overlap[:, :VOID_COLUMN].sum(axis=0)
        return pixels

    @property
    def predicted_on_void(self) -> IntArray:
        """(P,) pixels of the predicted segments where the ground truth is void."""
        return self.overlap[VOID_ROW, :VOID_COLUMN]

    @property
    def disagreements(self) -> list[str]:
        """The differences between list and map of the ground truth, as phrases: areas, and ids in only one of them."""
        pixels = self.truth_pixels.tolist()
        areas = [s.id for s, count in zip(self.truth, pixels, strict=True) if 0 < count != s.area]
        absent = [s.id for s, count in zip(self.truth, pixels, strict=True) if count == 0]
        unlisted = int(self.overlap[UNLISTED_ROW].sum())
        phrases = [f"areas of segments {listing(sorted(areas))} differ from their pixel counts"] if areas else []
        phrases += [f"segments {listing(sorted(absent))} have no pixels"] if absent else []
        phrases += [f"{unlisted} pixels belong to no listed segment"] if unlisted else []
        return phrases

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads back without loss."""
        rows, columns = np.nonzero(self.overlap)
        content: dict[str, Any] = {
            "image_id": self.image_id,
            "file_name": self.file_name,
            "size": list(self.size),
            "truth": [[s.id, s.category_id, s.area, list(s.bbox), int(s.is_crowd)] for s in self.truth],
            "predictions": [[s.id, s.category_id, s.area, list(s.bbox), s.score] for s in self.predictions],
            "overlap": np.stack([rows, columns, self.overlap[rows, columns]], axis=1).tolist(),
        }
        if self.boundary_iou is not None:
            pairs = zip(*np.nonzero(self.boundary_iou), strict=True)
            content["boundary_iou"] = [[int(t), int(p), float(self.boundary_iou[t, p])] for t, p in pairs]
        return content

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ImageOverlap:
        """Return the overlap in a `to_json` object."""
        truth = tuple(
            Segment(number, category, area, tuple(bbox), bool(crowd))
            for number, category, area, bbox, crowd in content["truth"]
        )
        predictions = tuple(
            Segment(number, category, area, tuple(bbox), score=score)
            for number, category, area, bbox, score in content["predictions"]
        )
        overlap = np.zeros((len(truth) + 2, len(predictions) + 1), np.int64)
        for row, column, pixels in content["overlap"]:
            overlap[row, column] = pixels
        boundary = None
        if "boundary_iou" in content:
            boundary = np.zeros((len(truth), len(predictions)))
            for row, column, iou in content["boundary_iou"]:
                boundary[row, column] = iou
        height, width = content["size"]
        return cls(content["image_id"], content["file_name"], (height, width), truth, predictions, overlap, boundary)


def compare(
    prediction: PanopticMap, truth: PanopticMap, image_id: int | str = 0, file_name: str = "the image"
) -> ImageOverlap:
    """Return the overlap of prediction and ground truth of an image.

    Unlisted ids in the ground truth map are counted separately, as in panopticapi; in a prediction they are an error.

    Raises:
        DataError: the maps differ in size, segment ids are repeated or below 1, the predicted map contains unlisted
            ids, or a predicted segment has no pixels.
    """
    if prediction.ids.shape != truth.ids.shape:
        raise DataError(
            f"{file_name}: the prediction is {_size(prediction.ids)} and the ground truth {_size(truth.ids)}; "
            "expected equal sizes (height x width)"
        )
    truth_ids = _ids(truth.segments, f"{file_name}, ground truth")
    predicted_ids = _ids(prediction.segments, f"{file_name}, prediction")
    truth_runs, predicted_runs, lengths = _runs_of_pairs(truth.ids, prediction.ids)
    rows = _indices(truth_ids, truth_runs)
    columns = _indices(predicted_ids, predicted_runs)
    unlisted = columns > len(predicted_ids)
    if unlisted.any():
        unknown = np.unique(predicted_runs[unlisted]).tolist()
        raise DataError(
            f"{file_name}, prediction: the map contains ids {listing(unknown)}, which are not listed as segments; "
            "expected a segment for every id except 0"
        )
    shape = (len(truth_ids) + 2, len(predicted_ids) + 1)
    pixels = np.bincount(rows * shape[1] + columns, weights=lengths, minlength=shape[0] * shape[1])
    overlap = pixels.astype(np.int64).reshape(shape)  # float sums of integers below 2^53 are exact
    empty = predicted_ids[overlap[:, :VOID_COLUMN].sum(axis=0) == 0].tolist()
    if empty:
        raise DataError(
            f"{file_name}, prediction: segments {empty} have no pixels in the map; expected at least one each"
        )
    size = (int(truth.ids.shape[0]), int(truth.ids.shape[1]))
    return ImageOverlap(image_id, file_name, size, truth.segments, prediction.segments, overlap)


def _ids(segments: Sequence[Segment], where: str) -> IntArray:
    ids = [segment.id for segment in segments]
    if len(set(ids)) < len(ids) or min(ids, default=1) < 1:
        raise DataError(f"{where}: the segment ids are {sorted(ids)}; expected unique ids of 1 or more")
    return np.array(ids, np.int64)


def _runs_of_pairs(first: IdMap, second: IdMap) -> tuple[IdMap, IdMap, npt.NDArray[np.intp]]:
    """Return the values and lengths of runs, in row order, in which both maps are constant."""
    a, b = first.reshape(-1), second.reshape(-1)
    changes = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    starts = np.concatenate(([0], np.flatnonzero(changes) + 1)) if a.size else np.zeros(0, np.intp)
    return a[starts], b[starts], np.diff(starts, append=a.size)


def _indices(ids: IntArray, values: IdMap) -> IntArray:
    """Return the index of each value in `ids`; `len(ids)` for void, and `len(ids) + 1` for unlisted values."""
    order = np.argsort(ids)
    known = np.append(ids[order], 0)  # one more, for searches beyond the end
    found = np.searchsorted(known[:-1], values)
    indices = np.append(order, len(ids))[found]
    absent = known[found] != values
    indices[absent] = np.where(values[absent] == 0, len(ids), len(ids) + 1)
    return indices


def _size(ids: IdMap) -> str:
    return " x ".join(str(side) for side in ids.shape)
