"""Reading videos: orientation, time stamps, damaged files, and what containers promise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panformer_cli.data.opencv import cv2
from panformer_cli.engine.inputs.find import find_inputs
from panformer_cli.engine.video.reading import Camera, VideoFile, open_video, usable_rate
from panformer_cli.errors import DataError
from tests.engine.video.clips import clip, damage, numbered_frame, set_times, truncate, turn


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.avi"])
def test_all_frames_in_rgb_with_time_stamps(tmp_path: Path, name: str) -> None:
    video = VideoFile(clip(tmp_path / name, 10))
    frames = list(video.frames())
    assert [frame.number for frame in frames] == list(range(10))
    assert [frame.seconds for frame in frames] == pytest.approx([number / 25 for number in range(10)], abs=1e-6)
    for frame in frames:
        assert frame.image.shape == (*video.size, 3) == (48, 64, 3)
        assert np.abs(frame.image.astype(int) - numbered_frame(frame.number)).mean() < 12
    assert (video.rate, video.promised, video.decoded, video.problem()) == (25, 10, 10, None)


@pytest.mark.parametrize(("stride", "numbers"), [(3, [0, 3, 6, 9]), (4, [0, 4, 8]), (100, [0])])
def test_a_stride_keeps_numbers_and_times(tmp_path: Path, stride: int, numbers: list[int]) -> None:
    video = VideoFile(clip(tmp_path / "a.mp4", 10))
    frames = list(video.frames(stride))
    assert [frame.number for frame in frames] == numbers
    assert [frame.seconds for frame in frames] == pytest.approx([number / 25 for number in numbers])
    assert (video.decoded, video.problem()) == (10, None)


def test_a_video_of_a_phone_is_upright(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", 3)
    turn(path)
    video = VideoFile(path)
    image = next(video.frames()).image
    assert image.shape == (*video.size, 3) == (64, 48, 3)
    red = (image[..., 0] > 150) & (image[..., 1] < 90)
    rows, columns = np.nonzero(red)
    assert rows.mean() < 16  # 90 degrees clockwise: the top left corner is at the top right
    assert columns.mean() > 32


def test_a_variable_frame_rate(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.webm", 4)
    set_times(path, [0, 40, 200, 240])
    video = VideoFile(path)
    assert [frame.seconds for frame in video.frames()] == pytest.approx([0, 0.04, 0.2, 0.24])
    assert video.rate == pytest.approx(25)


@pytest.mark.parametrize(
    ("stated", "stamps", "rate"),
    [
        (30, [], 30),
        (29.97, [0, 0.033, 0.067, 0.1], 29.97),
        (0, [0, 0.1, 0.2], 10),
        (math.nan, [], 25),
        (90000, [0, 0.04], 25),
        (14.3, [0, 0.04, 0.2, 0.24], 25),
        (0, [0, 1e-5], 240),
        (0, [0, 100], 1),
        (25, [0.0], 25),
    ],
)
def test_only_usable_rates_reach_a_writer(stated: float, stamps: list[float], rate: float) -> None:
    assert usable_rate(stated, stamps) == pytest.approx(rate)


@pytest.mark.parametrize("name", ["a.webm", "a.avi"])
def test_a_truncated_file_gives_the_frames_it_has(tmp_path: Path, name: str) -> None:
    path = clip(tmp_path / name, 50, noise=True)
    truncate(path, 0.6)
    video = VideoFile(path)
    numbers = [frame.number for frame in video.frames()]
    assert numbers == list(range(len(numbers)))
    assert 20 <= len(numbers) <= 35
    problem = str(video.problem())
    assert f"only {len(numbers)} of 50 frames can be decoded" in problem
    assert "gap" not in problem


@pytest.mark.parametrize(
    ("name", "gap"), [("a.webm", "gap is from 0.76 s"), ("a.mp4", "gap is from 0."), ("a.avi", "")]
)
def test_a_damaged_middle_is_reported_and_the_rest_is_read(tmp_path: Path, name: str, gap: str) -> None:
    path = clip(tmp_path / name, 50, noise=True)
    damage(path, 0.45, 0.1)
    video = VideoFile(path)
    frames = list(video.frames())
    assert 35 <= len(frames) < 49
    assert gap in str(video.problem())
    assert f"only {len(frames)} of 50 frames" in str(video.problem())


def test_a_wrong_promise_is_not_trusted(tmp_path: Path) -> None:
    """A container that promises fewer frames does not cut the video."""
    video = VideoFile(clip(tmp_path / "a.mp4", 10))
    video.promised = 4
    assert len(list(video.frames())) == 10
    assert video.problem() is None
    video.promised = 11  # one more is a usual estimate
    assert video.problem() is None


@pytest.mark.parametrize("content", [b"", b"hello\n" * 100])
def test_a_file_without_frames_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.mp4: no frame of this video can be decoded"):
        open_video(path)
    with pytest.raises(DataError, match=r"the video .*b\.mp4 is missing"):
        open_video(tmp_path / "b.mp4")


class FakeCapture:
    """Stands for `cv2.VideoCapture`: a camera that gives some images, or a file whose frames change their size."""

    def __init__(self, images: list[Any], rate: float = 0.0) -> None:
        self.images, self.rate, self.position = images, rate, -1

    def __call__(self, source: object) -> FakeCapture:
        return FakeCapture(self.images, self.rate)

    def isOpened(self) -> bool:  # noqa: N802 (OpenCV's name)
        return True

    def set(self, name: int, value: float) -> bool:
        return name == cv2.CAP_PROP_ORIENTATION_AUTO and value == 1

    def get(self, name: int) -> float:
        return self.rate if name == cv2.CAP_PROP_FPS else 0.0

    def grab(self) -> bool:
        self.position += 1
        return self.position < len(self.images)

    def retrieve(self) -> tuple[bool, Any]:
        return True, self.images[self.position]

    def release(self) -> None:
        pass


def test_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [np.full((4, 6, 3), (number, 0, 9), np.uint8) for number in range(5)]
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture(images))
    camera = open_video(0)
    assert isinstance(camera, Camera)
    assert (camera.name, camera.size, camera.rate, camera.promised, camera.is_live) == (
        "camera 0",
        (4, 6),
        25,
        None,
        True,
    )
    frames = list(camera.frames(2))
    assert [(frame.number, frame.image[0, 0].tolist()) for frame in frames] == [(n, [9, 0, n]) for n in (0, 2, 4)]
    assert sorted(frame.seconds for frame in frames) == [frame.seconds for frame in frames]
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture([]))
    with pytest.raises(DataError, match="camera 3 gives no image"):
        open_video(3)


@pytest.mark.parametrize("number", [-1, 100, 139, 10**12])
def test_numbers_that_are_no_camera(number: int) -> None:
    """OpenCV takes some of them for other sources, and ends with an error of its own for others."""
    with pytest.raises(DataError, match=f"there is no camera {number}; expected a number from 0"):
        open_video(number)


def test_a_name_that_no_video_can_have() -> None:
    with pytest.raises(DataError, match="cannot be the name of a file: it is too long"):
        open_video(Path("x" * 300 + ".mp4"))
    with pytest.raises(DataError, match="cannot be the name of a file: it is too long"):
        find_inputs(["1" * 300], Path("nowhere"))


def test_a_frame_of_another_size_ends_the_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without time stamps, they are estimated from the rate."""
    path = tmp_path / "a.mp4"
    path.touch()
    images = [np.zeros((4, 6, 3), np.uint8)] * 3 + [np.zeros((5, 6, 3), np.uint8)]
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture(images, 10.0))
    video = VideoFile(path)
    assert [frame.seconds for frame in video.frames()] == pytest.approx([0, 0.1, 0.2])
    assert "frame 3 is 6x5, and those before are 6x4" in str(video.problem())
