"""Videos: their frames, and results whose segment ids stay with an object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from os import PathLike
from pathlib import Path

from panformer_cli.api.inputs import NamedImage
from panformer_cli.api.reporters import LOGGER
from panformer_cli.api.result import Result
from panformer_cli.data.categories import CategoryTable
from panformer_cli.engine.video.reading import Video, open_video
from panformer_cli.engine.video.tracking import Tracker
from panformer_cli.errors import DataError


def frames_of(source: str | PathLike[str] | int, stride: int) -> Iterator[NamedImage]:
    """Return every `stride`-th frame of a video file or of a camera.

    What is wrong after the last frame, such as a truncated file, is logged as a warning.

    Raises:
        DataError: The video or the camera cannot be used; raised at once.
    """
    return _frames(open_video(source if isinstance(source, int) else Path(source)), stride)


def _frames(video: Video, stride: int) -> Iterator[NamedImage]:
    with closing(video.frames(stride)) as frames:
        for frame in frames:
            yield NamedImage(frame.image, video.name)
    if problem := video.problem():
        LOGGER.warning("%s", problem)


def tracked(results: Iterator[Result], categories: CategoryTable, stride: int, memory: int) -> Iterator[Result]:
    """Yield the results of frames with track ids, counted from 1 in this video, as segment ids.

    Raises:
        DataError: A frame has another size than those before.
    """
    tracker = Tracker(categories, memory)
    shade_of: dict[int, int] = {}  # by track: an object keeps its color
    tracks: Counter[int] = Counter()
    for index, result in enumerate(results):
        try:
            panoptic = tracker.update(result.panoptic, index * stride)
        except ValueError as error:
            raise DataError(f"frame {index * stride}: {error}") from error
        for segment in panoptic.segments:
            if segment.id not in shade_of:
                shade_of[segment.id] = tracks[segment.category_id]
                tracks[segment.category_id] += 1
        shades = tuple(shade_of[segment.id] for segment in panoptic.segments)
        yield Result.of(result.image, panoptic, result.categories, result.source, index * stride, shades)
