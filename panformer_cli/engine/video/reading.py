"""Reads the frames of a video file or a camera, to the end and with their time stamps.

The container of a video only estimates its size, length and frame rate. So the size is that of the first decoded frame,
the frames are counted, and the rate is checked against the time stamps.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np

from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray
from panformer_cli.errors import DataError
from panformer_cli.storage.files import check_can_exist, missing
from panformer_cli.wording import counted

USUAL_RATE = 25.0
"""Frames per second if neither the container nor the time stamps have a usable rate."""
RATES = (1.0, 240.0)
"""Frame rates that are believed; cameras and containers report 0, NaN or 90000 if they do not know."""
PROBED = 40
"""First frames whose time stamps are compared with the rate of the container."""
ATTEMPTS = (10, 1_000_000)
"""Least and most failed reads in a row after which a video is at its end; a corrupt packet is one failed read."""
LAST_CAMERA = 99
"""Larger numbers mean other things to OpenCV: 200 is the first camera of another of its backends."""
NEGLIGIBLE = 0.02
"""Share of the promised frames that may be missing: many containers only estimate their number."""


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        number: Its number among the decoded frames, from 0.
        seconds: Its time stamp; larger than that of the frame before.
        image: (H, W, 3) uint8 RGB, turned as the container says.
    """

    number: int
    seconds: float
    image: ImageArray


class Video(ABC):
    """A source of frames.

    Attributes:
        name: Name in messages.
        size: Height and width of the frames, in pixels.
        rate: Frames per second.
        promised: Number of frames by the container; None if it has none.
        is_live: Whether it has no end, so that stopping is the normal end.
        decoded: Number of frames decoded so far.
    """

    name: str
    size: tuple[int, int]
    rate: float
    promised: int | None = None
    is_live: bool = False
    decoded: int = 0

    @abstractmethod
    def frames(self, stride: int = 1) -> Generator[Frame, None, None]:
        """Yield every `stride`-th frame, beginning with the first one."""

    def problem(self) -> str | None:
        """Return what is wrong, after the last frame: a message; None if nothing is."""
        return None


class VideoFile(Video):
    """A video file, see `Video`.

    Args:
        path: The file.
        name: Name in messages; None for the path.

    Raises:
        DataError: The file is missing, or no frame of it can be decoded.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        self.name = name or str(path)
        self._gap = (0.0, 0.0)  # the longest time without a frame: start and end
        self._last = 0.0
        self._other_size: tuple[int, int] | None = None
        check_can_exist(path)
        if not path.is_file():
            raise missing(path, "video")
        with _opened(str(path.absolute())) as capture:  # not a relative path: FFmpeg reads `a:b` as a protocol
            frames = _decoded(capture, 0, USUAL_RATE)
            if next(frames, None) is None:
                raise DataError(
                    f"{self.name}: no frame of this video can be decoded; expected a video such as MP4 or WebM; check "
                    "the file, or convert it with `ffmpeg -i FILE new.mp4`"
                )
            image = _retrieved(capture)
            stamps = [_stamp(capture), *(_stamp(capture) for _ in islice(frames, PROBED))]
            count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
            self.rate = usable_rate(capture.get(cv2.CAP_PROP_FPS), stamps)
        self.size = (image.shape[0], image.shape[1])
        self.promised = round(count) if math.isfinite(count) and count >= 1 else None

    def frames(self, stride: int = 1) -> Generator[Frame, None, None]:
        """As `Video.frames`. A frame of another size ends the video."""
        self.decoded, self._gap, self._last = 0, (0.0, 0.0), 0.0
        with _opened(str(self.path.absolute())) as capture:
            for number, seconds in enumerate(_decoded(capture, self.promised or 0, self.rate)):
                if number and seconds - self._last > self._gap[1] - self._gap[0]:
                    self._gap = (self._last, seconds)
                self._last = seconds
                if number % stride == 0:
                    image = _retrieved(capture)
                    if image.shape[:2] != self.size:
                        self._other_size = (image.shape[0], image.shape[1])
                        return
                    yield Frame(number, seconds, image)
                self.decoded = number + 1

    def problem(self) -> str | None:
        """Return which frames are missing, if more are than a wrong estimate explains; None otherwise."""
        if self._other_size is not None:
            (height, width), (other_height, other_width) = self.size, self._other_size
            return (
                f"{self.name}: frame {self.decoded} is {other_width}x{other_height}, and those before are "
                f"{width}x{height}; expected one size; the results have the frames before it"
            )
        lost = (self.promised or 0) - self.decoded
        if lost <= max(1, NEGLIGIBLE * (self.promised or 0)):
            return None
        start, end = self._gap
        where = f"; the longest gap is from {start:.2f} s to {end:.2f} s" if (end - start) * self.rate > 1.5 else ""
        return (
            f"{self.name}: only {self.decoded} of {counted(self.promised or 0, 'frame')} can be decoded, the last one "
            f"at {self._last:.2f} s{where}; the file is damaged or incomplete; the results have the decoded frames"
        )


class Camera(Video):
    """A camera by its number, see `Video`. Time stamps count from the first frame.

    Raises:
        DataError: The camera does not exist or gives no image.
    """

    is_live = True

    def __init__(self, number: int) -> None:
        self.name = f"camera {number}"
        if not 0 <= number <= LAST_CAMERA:
            raise DataError(f"there is no {self.name}; expected a number from 0, the first camera, to {LAST_CAMERA}")
        self._number = number
        with _opened(number) as capture:
            if not capture.grab():
                raise DataError(
                    f"{self.name} gives no image; check that it is connected, that no other program uses it, and that "
                    "you may use it; 0 is the first camera"
                )
            image = _retrieved(capture)
            self.rate = usable_rate(capture.get(cv2.CAP_PROP_FPS), [])
        self.size = (image.shape[0], image.shape[1])

    def frames(self, stride: int = 1) -> Generator[Frame, None, None]:
        """As `Video.frames`, until the camera gives no more images."""
        with _opened(self._number) as capture:
            start, number = 0.0, 0
            while capture.grab():
                now = time.monotonic()
                start = start or now
                if number % stride == 0:
                    yield Frame(number, now - start, _retrieved(capture))
                number += 1
                self.decoded = number


def open_video(source: Path | int, name: str | None = None) -> Video:
    """Return a video file by its path, or a camera by its number; arguments and errors as `VideoFile` and `Camera`."""
    return Camera(source) if isinstance(source, int) else VideoFile(source, name)


def usable_rate(stated: float, stamps: list[float]) -> float:
    """Return the frames per second of a video.

    Args:
        stated: Rate by the container, the mean of the whole video; 0, NaN or absurd if it does not know.
        stamps: Time stamps of the first frames, in seconds; all equal or NaN if there are none. They count if they
            contradict the container, as in videos with a variable rate.
    """
    least, most = RATES
    gaps = [gap for gap in np.diff(stamps).tolist() if gap > 0]
    measured = 1 / median(gaps) if gaps else math.nan
    is_usable = math.isfinite(stated) and least <= stated <= most
    if is_usable and not abs(measured / stated - 1) > 0.05:  # True without time stamps
        return stated
    if math.isfinite(measured):
        return min(max(measured, least), most)
    return USUAL_RATE


@contextmanager
def _opened(source: str | int) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(source)
    try:
        # Phones record portrait videos sideways, with a rotation in the container. Backends have different defaults.
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        yield capture
    finally:
        capture.release()


def _decoded(capture: cv2.VideoCapture, promised: int, rate: float) -> Iterator[float]:
    """Yield the time stamp of each frame that can be decoded, in seconds, after `capture.grab`.

    A failed read is the end of the video, or a corrupt packet in the middle; only more attempts tell them apart, as
    many as frames are missing. A time stamp that is missing or not larger than the one before is estimated from the
    rate.
    """
    least, most = ATTEMPTS
    failed, decoded, last = 0, 0, -math.inf
    while failed < max(least, min(promised - decoded, most)) and capture.isOpened():
        if not capture.grab():
            failed += 1
            continue
        failed, decoded = 0, decoded + 1
        seconds = _stamp(capture)
        if not last < seconds < math.inf or seconds < 0:
            seconds = max(last + 1 / rate, 0.0)
        last = seconds
        yield seconds


def _stamp(capture: cv2.VideoCapture) -> float:
    """Return the time stamp of the frame that was grabbed last, in seconds; 0 or NaN if there is none."""
    return capture.get(cv2.CAP_PROP_POS_MSEC) / 1000


def _retrieved(capture: cv2.VideoCapture) -> ImageArray:
    """Return the frame that was grabbed last, (H, W, 3) uint8 RGB."""
    _, image = capture.retrieve()
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
