"""Segments videos: the video with colors, and a JSON with the segments and tracks of every frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from panformer_cli.data.structures import ImageArray, PanopticMap
from panformer_cli.engine.claimed_folder import claimed
from panformer_cli.engine.combined.choose import predictor_of
from panformer_cli.engine.combined.options import DEFAULT, InferenceOptions
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.distributed.signals import StopRequest, stop_on_signals
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.inference_changes import InferenceChanges
from panformer_cli.engine.inputs.video_sources import InputVideo, LocalVideo
from panformer_cli.engine.outputs.options import OutputOptions
from panformer_cli.engine.outputs.selection import SegmentSelection
from panformer_cli.engine.precision import PrecisionChoice
from panformer_cli.engine.prefetch import behind
from panformer_cli.engine.video.options import OVERLAY, PANOPTIC, USUAL, VideoOptions, check_outputs
from panformer_cli.engine.video.reading import Frame, Video, open_video
from panformer_cli.engine.video.results import (
    FOLDER,
    VideoJson,
    VideoPaths,
    check_is_free,
    remove_abandoned,
    replaced_together,
)
from panformer_cli.engine.video.tracking import Tracker
from panformer_cli.engine.video.writing import LEAST_RATE, LONGEST_STILL, Pace, VideoWriter, find_format
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.models.base import Prediction
from panformer_cli.reporting import Progress, Reporter, SilentReporter
from panformer_cli.storage.files import resolve_links, writing
from panformer_cli.visualization.drawing import DrawOptions, draw_panoptic
from panformer_cli.wording import counted, shown

Item = TypeVar("Item")
Result = TypeVar("Result")
_Tracked = tuple[Frame, PanopticMap, list[int]]


@dataclass(frozen=True)
class VideoRequest:
    """What to segment.

    Attributes:
        videos: The videos.
        checkpoint: The checkpoint file.
        out: Folder of the results, which are in `OUT/videos`.
        batch_size: Frames per forward pass, 1 or more. It changes results by rounding at most.
        precision: Precision of the network.
        output: What is written, some of `options.OUTPUTS`, and of which segments.
        changes: Settings that differ from those of the checkpoint.
        options: How videos are read and tracked.
        inference: Tiles, views and mask layers.
    """

    videos: Sequence[InputVideo]
    checkpoint: Path
    out: Path
    batch_size: int = 1
    precision: PrecisionChoice = "fp32"
    output: OutputOptions = OutputOptions(USUAL)
    changes: InferenceChanges = InferenceChanges()
    options: VideoOptions = VideoOptions()
    inference: InferenceOptions = DEFAULT


@dataclass(frozen=True)
class VideoSummary:
    """What was written of a video; the object `video` of its JSON.

    Attributes:
        source: Its path, or the name of the camera.
        frames: Number of predicted frames.
        decoded: Number of frames that were read.
        promised: Number of frames by the container; None if it has none.
        complete: Whether all frames that can be decoded were read.
        size: Width and height of the frames, in pixels.
        stride: Every how many-th frame was predicted.
        memory: Of the tracks.
        seconds: Time stamp of the last frame.
        tracks: Number of track ids.
        overlay: File name of the video with colors; None if it was not written.
        codec: Its codec.
        in_browsers: Whether browsers play it.
        rate: Its frames per second, constant.
        overlay_frames: Number of its frames: with a variable rate, frames are repeated or left out to keep the time.
        json: File name of the JSON, which is always written.
    """

    source: str
    frames: int
    decoded: int
    promised: int | None
    complete: bool
    size: tuple[int, int]
    stride: int
    memory: int
    seconds: float
    tracks: int
    overlay: str | None
    codec: str | None
    in_browsers: bool | None
    rate: float
    overlay_frames: int
    json: str


@dataclass(frozen=True)
class VideoResults:
    """The results of all videos, in the order of the inputs, and one message for each problem."""

    videos: list[VideoSummary]
    failures: list[str]


def predict_videos(request: VideoRequest, process: Process, reporter: Reporter) -> VideoResults:
    """Segment videos, each on one process, and write `OUT/videos/<name>.webm` or another suffix, and `<name>.json`.

    A video that cannot be read, or not to its end, is reported. The files of a video appear when it is finished. If the
    process is asked to stop, the frames so far become a shorter video.

    Raises:
        PanformerError: The checkpoint or the folder cannot be used.
        KeyboardInterrupt: A video was stopped; its files have the frames before.
    """
    check_outputs(request.output.save)
    checkpoint = request.changes.read(request.checkpoint, reporter)
    selection = request.output.selection(checkpoint.categories)
    paths = [VideoPaths(request.out / FOLDER / video.name) for video in request.videos]
    results: list[tuple[int, VideoSummary | None, str | None]] = []
    with ExitStack() as stack:
        process.on_first(lambda: _begin(request, paths, stack, reporter))
        predictor = predictor_of(checkpoint, process, request.precision, request.inference)
        for note in predictor.notes():
            reporter.message(note)
        stop = stack.enter_context(stop_on_signals())
        for index in range(process.rank, len(paths), process.world_size):
            job = _Job(request, predictor, selection, stop, reporter)
            try:
                summary, problem = job.run(request.videos[index], paths[index])
            except DataError as error:
                summary, problem = None, str(error)
            if problem is not None:
                reporter.warn(problem)
            results.append((index, summary, problem))
            if stop and summary and not summary.complete:
                frames = counted(summary.frames, "frame")
                raise KeyboardInterrupt(
                    f"Stopped after {frames} of {summary.source}; results: {paths[index].base.parent}"
                )
            if stop:
                break
        gathered = sorted((item for part in process.gather(results) for item in part), key=lambda item: item[0])
    return VideoResults(
        [summary for _, summary, _ in gathered if summary is not None],
        [problem for _, _, problem in gathered if problem is not None],
    )


def _begin(request: VideoRequest, paths: Sequence[VideoPaths], stack: ExitStack, reporter: Reporter) -> None:
    """Check and lock the folder of results."""
    results = resolve_links(request.out / FOLDER)
    for video, path in zip(request.videos, paths, strict=True):
        if isinstance(video.source, LocalVideo) and resolve_links(video.source.path).is_relative_to(results):
            raise PanformerError(
                f"{video.source} is in {request.out / FOLDER}, where results are replaced; choose another folder with "
                "--out"
            )
        check_is_free(request.out, path)
    with writing(request.out):
        request.out.mkdir(parents=True, exist_ok=True)
    stack.enter_context(claimed(request.out, "written", "a second prediction", reporter))
    for path in paths:
        remove_abandoned(path)


class _Job:
    """The prediction of one video."""

    def __init__(
        self,
        request: VideoRequest,
        predictor: Predictor,
        selection: SegmentSelection,
        stop: StopRequest,
        reporter: Reporter,
    ) -> None:
        self._request = request
        self._predictor = predictor
        self._selection = selection
        self._stop = stop
        self._reporter = reporter
        self._tracker = Tracker(predictor.categories, request.options.memory)
        self._colored = request.output.colored(predictor.categories)
        self._number_of: dict[int, int] = {}  # of each track, among those of its category
        self._tracks: Counter[int] = Counter()  # of each category

    def run(self, given: InputVideo, paths: VideoPaths) -> tuple[VideoSummary, str | None]:
        """Predict a video and write its files; return its summary and the problem, if there was one.

        Raises:
            DataError: The video cannot be read.
            PanformerError: A file cannot be written.
            KeyboardInterrupt: It was stopped before the first frame.
        """
        save = self._request.output.save
        with replaced_together(paths) as folder, given.source.opened(folder) as source:
            video = open_video(source, str(given.source))
            writer, rate = None, max(video.rate / self._request.options.stride, LEAST_RATE)
            if OVERLAY in save:
                form = find_format(folder, video.size, rate)
                writer = VideoWriter(folder / paths.overlay(form.suffix).name, form, video.size, rate)
            pngs = folder / paths.pngs.name if PANOPTIC in save else None
            with VideoJson(folder, self._predictor.categories, pngs) as rows, writer or nullcontext():
                seconds = self._write(video, rows, writer)
                if self._stop and not rows.frames:
                    raise KeyboardInterrupt(f"Stopped before the first frame of {video.name}")
            summary = self._summary(video, rows.frames, seconds, writer, paths.json.name)
            rows.finish(folder / paths.json.name, asdict(summary))
        return summary, video.problem() if summary.complete else None

    def _write(self, video: Video, rows: VideoJson, writer: VideoWriter | None) -> float:
        """Predict all frames and write them; return the time stamp of the last one, in seconds."""
        predicted = self._predictor.map(self._frames(video), _with_frame, self._request.batch_size)
        drawn = self._beside(self._tracked(predicted), self._draw)
        pace, seconds = Pace(writer, self._request.options.stride / video.rate) if writer else None, 0.0
        with self._progress(video) as progress:
            for frame, panoptic, overlay in drawn:
                rows.add(frame, panoptic)
                if pace is not None and overlay is not None:
                    pace.show(overlay, frame.seconds)
                seconds = frame.seconds
                progress.advance(status=f"{seconds:.1f} s")
        if pace is not None:
            pace.end()
            if pace.cut >= 1:
                self._reporter.warn(
                    f"{shown(video.name)}: its time stamps have gaps of more than {LONGEST_STILL:g} s; the video with "
                    f"colors is {pace.cut:.0f} s shorter"
                )
        return seconds

    def _frames(self, video: Video) -> Iterator[tuple[Frame, ImageArray]]:
        """Yield the frames for `Predictor.map`, until the process is asked to stop."""
        with closing(video.frames(self._request.options.stride)) as frames:
            for frame in frames:
                if self._stop:
                    return
                yield frame, frame.image

    def _tracked(self, predicted: Iterable[tuple[Frame, PanopticMap]]) -> Iterator[_Tracked]:
        """Yield the frames with track ids as segment ids, and the numbers of their segments for `draw_panoptic`."""
        for frame, panoptic in predicted:
            tracked = self._tracker.update(self._selection(panoptic), frame.number)
            for segment in tracked.segments:
                if segment.id not in self._number_of:
                    self._number_of[segment.id] = self._tracks[segment.category_id]
                    self._tracks[segment.category_id] += 1
            yield frame, tracked, [self._number_of[segment.id] for segment in tracked.segments]

    def _draw(self, tracked: _Tracked) -> tuple[Frame, PanopticMap, ImageArray | None]:
        """Return a frame with its map and, if the video is written, its overlay."""
        frame, panoptic, numbers = tracked
        if OVERLAY not in self._request.output.save:
            return frame, panoptic, None
        return frame, panoptic, draw_panoptic(frame.image, panoptic, self._colored, DrawOptions(ids=True), numbers)

    def _beside(self, items: Iterable[Item], work: Callable[[Item], Result]) -> Iterator[Result]:
        """Return `work` of each item, in order; beside a model on a GPU, threads do it."""
        return map(work, items) if self._predictor.device.type == "cpu" else behind(items, work)

    def _progress(self, video: Video) -> AbstractContextManager[Progress]:
        if video.is_live:
            self._reporter.message(f"Reading {video.name}; press Ctrl-C to stop")
        if not video.promised:  # a bar needs a length
            return SilentReporter().progress("", 0)
        return self._reporter.progress("Predicting", -(-video.promised // self._request.options.stride))

    def _summary(
        self, video: Video, frames: int, seconds: float, writer: VideoWriter | None, json_name: str
    ) -> VideoSummary:
        height, width = video.size
        return VideoSummary(
            source=video.name,
            frames=frames,
            decoded=video.decoded,
            promised=video.promised,
            complete=video.is_live or not self._stop,
            size=(width, height),
            stride=self._request.options.stride,
            memory=self._request.options.memory,
            seconds=round(seconds, 6),
            tracks=len(self._number_of),
            overlay=writer.path.name if writer else None,
            codec=writer.form.name if writer else None,
            in_browsers=writer.form.in_browsers if writer else None,
            rate=writer.rate if writer else video.rate,
            overlay_frames=writer.frames if writer else 0,
            json=json_name,
        )


def _with_frame(frame: Frame, prediction: Prediction) -> tuple[Frame, PanopticMap]:
    return frame, prediction.panoptic
