"""Writes frames to a video file, in the first format that works on this computer, and counts them by reading it back.

OpenCV reports neither a missing encoder nor frames that it drops, so a format is first tried with some frames.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray
from panformer_cli.errors import PanformerError, WriteError
from panformer_cli.wording import counted, listing

TRIED = 3
"""Frames with which a format is tried."""
LEAST_RATE = 1.0
"""Frames per second: OpenCV loses all frames of some WebM files with a lower rate. Frames are repeated instead."""
LONGEST_STILL = 10.0
"""Seconds for which a frame is shown at most: a longer gap is a wrong time stamp of a damaged video, or a pause."""


@dataclass(frozen=True)
class VideoFormat:
    """A codec and its container.

    Attributes:
        name: Name of the codec.
        fourcc: Its four characters in OpenCV.
        suffix: Suffix of the file.
        in_browsers: Whether all current browsers play it.
    """

    name: str
    fourcc: str
    suffix: str
    in_browsers: bool


FORMATS = (
    VideoFormat("H.264", "avc1", ".mp4", True),  # not in OpenCV's wheels for Linux
    VideoFormat("VP8", "VP80", ".webm", True),  # four times as fast as VP9
    VideoFormat("MPEG-4 Part 2", "mp4v", ".mp4", False),
    VideoFormat("Motion JPEG", "MJPG", ".avi", False),
)
"""The formats in the order in which they are tried."""


def find_format(
    folder: Path, size: tuple[int, int], rate: float, formats: tuple[VideoFormat, ...] = FORMATS
) -> VideoFormat:
    """Return the first format in which frames can be written and read back.

    Args:
        folder: An existing folder for the trials.
        size: Height and width of the frames, in pixels.
        rate: Frames per second.
        formats: The formats to try.

    Raises:
        PanformerError: None of them works.
    """
    for form in formats:
        path = folder / f"trial{form.suffix}"
        try:
            with VideoWriter(path, form, size, rate) as writer:
                for shade in range(TRIED):
                    writer.write(np.full((*size, 3), 80 * shade, np.uint8))
        except WriteError:
            continue
        finally:
            with suppress(OSError):
                path.unlink()
        return form
    height, width = size
    raise PanformerError(
        f"OpenCV cannot write a video of {width}x{height} pixels: tried {listing(form.name for form in formats)}; use "
        "--save json, or install another build of OpenCV"
    )


class VideoWriter:
    """Writes a video of a constant frame rate; use it as a context manager.

    A side with an odd number of pixels gets one more, a copy of the last one: most codecs need even sides.

    Args:
        path: The file.
        form: Its format.
        size: Height and width of the frames, in pixels.
        rate: Frames per second.

    Attributes:
        path, form, rate: The arguments.
        frames: Number of frames written.

    Raises:
        WriteError: The file cannot be opened or, at the end, does not have all frames.
    """

    def __init__(self, path: Path, form: VideoFormat, size: tuple[int, int], rate: float) -> None:
        self.path = path
        self.form = form
        self.rate = rate
        self.frames = 0
        self._size = size
        self._even = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        with _silent_stderr():  # OpenCV prints a remark about the tag of VP8
            self._writer = cv2.VideoWriter(
                str(path.absolute()), cv2.VideoWriter.fourcc(*form.fourcc), rate, (self._even[1], self._even[0])
            )
        if not self._writer.isOpened():
            raise WriteError(f"cannot write {path}: OpenCV has no encoder for {form.name}; choose another format")

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del error, trace
        self._writer.release()
        if kind is None:
            self._check()

    def write(self, image: ImageArray, copies: int = 1) -> None:
        """Write a frame, (H, W, 3) uint8 RGB, several times in a row.

        Raises:
            ValueError: The frame has another shape or type; OpenCV would drop it silently.
        """
        if image.shape != (*self._size, 3) or image.dtype != np.uint8:
            raise ValueError(f"the frame is {image.shape} {image.dtype}; expected {(*self._size, 3)} uint8")
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        bottom, right = self._even[0] - self._size[0], self._even[1] - self._size[1]
        if bottom or right:
            bgr = cv2.copyMakeBorder(bgr, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        for _ in range(copies):
            self._writer.write(bgr)
        self.frames += copies

    def _check(self) -> None:
        """Raise a WriteError unless the file has all frames at the right size."""
        found, shape = 0, None
        capture = cv2.VideoCapture(str(self.path.absolute()))
        while capture.grab():
            if not found:
                shape = capture.retrieve()[1].shape[:2]
            found += 1
        capture.release()
        if found != self.frames or (found and shape != self._even):
            raise WriteError(
                f"cannot write {self.path}: {found} of {counted(self.frames, 'frame')} can be read back; free some "
                "space or choose another folder"
            )


class Pace:
    """Shows each frame in a video of constant rate until the time of the next one.

    If the frames have that rate, every one is written once. Otherwise, frames are repeated or left out, so that the
    video is as long as its source, without what gaps have above `LONGEST_STILL`.

    Args:
        writer: Writes the frames.
        interval: Usual number of seconds between two frames.

    Attributes:
        cut: Seconds of gaps that the video does not have.
    """

    def __init__(self, writer: VideoWriter, interval: float) -> None:
        self.cut = 0.0
        self._longest = max(LONGEST_STILL, 2 * interval)
        self._writer = writer
        self._last = 0.0
        self._shown: ImageArray | None = None
        self._start = 0.0

    def show(self, image: ImageArray, seconds: float) -> None:
        """Add the frame with this time stamp; errors as `VideoWriter.write`."""
        if self._shown is None:
            self._start = seconds
        else:
            excess = max(seconds - self._last - self._longest, 0.0)
            self.cut += excess
            self._start += excess
            due = round((seconds - self._start) * self._writer.rate)
            self._writer.write(self._shown, max(due - self._writer.frames, 0))
        self._shown, self._last = image, seconds

    def end(self) -> None:
        """Write the last frame."""
        if self._shown is not None:
            self._writer.write(self._shown)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard what libraries print to stderr; nothing is discarded where it cannot be redirected."""
    try:
        saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # stderr is closed
        yield
        return
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
