"""Video panoptic quality (VPQ): the PQ of tubes.

A tube is all pixels of one segment id in a window of k consecutive frames. Every window of a video is evaluated like
one tall image by the rules of PQ, so a segment whose id changes inside a window is not one tube and lowers the result.
Source: Kim et al., "Video Panoptic Segmentation", CVPR 2020, section 3.2.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import fsum

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import Segment
from panformer_cli.errors import DataError
from panformer_cli.metrics.image_overlap import UNLISTED_ROW, VOID_COLUMN, VOID_ROW, ImageOverlap
from panformer_cli.metrics.quality import PanopticQuality, PanopticResult

WINDOWS = (1, 2, 3, 4)
"""Window sizes in frames. With 1, VPQ is the PQ of the frames."""


@dataclass(frozen=True)
class VideoResult:
    """VPQ in percent: means over the window sizes in which a video has a segment; 0 if there is none.

    Attributes:
        all: Mean over the classes.
        things: Mean over the things.
        stuff: Mean over the stuff.
        windows: PQ of the tubes by window size.
    """

    all: float
    things: float
    stuff: float
    windows: dict[int, PanopticResult]


class VideoQuality:
    """Evaluator of VPQ: videos are added one by one; processes `merge` their parts.

    Args:
        categories: The category table.
        windows: Window sizes in frames, each 1 or more.
    """

    def __init__(self, categories: CategoryTable, windows: Sequence[int] = WINDOWS) -> None:
        self._qualities = {size: PanopticQuality(categories) for size in sorted(set(windows))}

    def add(self, frames: Iterable[ImageOverlap]) -> None:
        """Add a video; it does not count for windows that are longer than the video.

        Args:
            frames: Overlaps of its consecutive frames, whose segment ids mean the same object in every frame.

        Raises:
            DataError: A segment id has different classes in the frames of a window; and as `match_segments`.
        """
        recent: deque[ImageOverlap] = deque(maxlen=max(self._qualities))
        for frame in frames:
            recent.append(frame)
            for size, quality in self._qualities.items():
                if size <= len(recent):
                    quality.update(tube_overlap(list(recent)[-size:]))

    def merge(self, other: VideoQuality) -> None:
        """Add the videos of `other`, which must have an equal category table and equal windows."""
        if other._qualities.keys() != self._qualities.keys():
            raise DataError("cannot merge VPQ with different windows; expected equal windows")
        for size, quality in self._qualities.items():
            quality.merge(other._qualities[size])

    def result(self) -> VideoResult:
        """Return VPQ of the videos added so far."""
        windows = {size: quality.result() for size, quality in self._qualities.items()}
        return VideoResult(
            _mean(windows, lambda result: (result.all.pq, result.all.n)),
            _mean(windows, lambda result: (result.things.pq, result.things.n)),
            _mean(windows, lambda result: (result.stuff.pq, result.stuff.n)),
            windows,
        )


def tube_overlap(frames: Sequence[ImageOverlap]) -> ImageOverlap:
    """Return the overlap of the tubes in a window: that of its frames, one below the other, as one image.

    Each tube has the box of the first frame in which it occurs.

    Raises:
        DataError: A segment id has different classes in the frames.
    """
    first = frames[0]
    truth = _tubes([frame.truth for frame in frames], f"{first.file_name}, ground truth")
    predictions = _tubes([frame.predictions for frame in frames], f"{first.file_name}, prediction")
    rows = {segment_id: row for row, segment_id in enumerate(truth)}
    columns = {segment_id: column for column, segment_id in enumerate(predictions)}
    overlap = np.zeros((len(truth) + 2, len(predictions) + 1), np.int64)
    last = (len(truth) + 2 + VOID_ROW, len(truth) + 2 + UNLISTED_ROW)
    for frame in frames:
        own_rows = [*(rows[segment.id] for segment in frame.truth), *last]
        own_columns = [*(columns[segment.id] for segment in frame.predictions), len(predictions) + 1 + VOID_COLUMN]
        overlap[np.ix_(own_rows, own_columns)] += frame.overlap
    size = (sum(frame.size[0] for frame in frames), first.size[1])
    return ImageOverlap(
        first.image_id, first.file_name, size, tuple(truth.values()), tuple(predictions.values()), overlap
    )


def _tubes(frames: Sequence[Sequence[Segment]], where: str) -> dict[int, Segment]:
    """Return the segments of all frames by id, with the sum of their areas."""
    tubes: dict[int, Segment] = {}
    for segment in (segment for frame in frames for segment in frame):
        tube = tubes.get(segment.id)
        if tube is not None and tube.category_id != segment.category_id:
            raise DataError(
                f"{where}: segment {segment.id} has category {tube.category_id} in one frame and "
                f"{segment.category_id} in another; expected one category for each id of a video"
            )
        tubes[segment.id] = replace(tube, area=tube.area + segment.area) if tube else segment
    return tubes


def _mean(windows: dict[int, PanopticResult], group: Callable[[PanopticResult], tuple[float, int]]) -> float:
    """Return the mean PQ of a group over the windows in which a class counts."""
    values = [pq for pq, classes in map(group, windows.values()) if classes]
    return fsum(values) / len(values) if values else 0.0
