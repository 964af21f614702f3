"""Writing videos: every frame is checked, and the file is read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panformer_cli.engine.video.reading import VideoFile
from panformer_cli.engine.video.writing import (
    FORMATS,
    LEAST_RATE,
    LONGEST_STILL,
    Pace,
    VideoFormat,
    VideoWriter,
    find_format,
)
from panformer_cli.errors import PanformerError, WriteError
from tests.engine.video.clips import BY_SUFFIX, numbered_frame


@pytest.mark.parametrize("size", [(48, 64), (49, 63), (16, 16)])
@pytest.mark.parametrize("suffix", [".webm", ".mp4", ".avi"])
def test_the_file_has_all_frames(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    """A side with an odd number of pixels gets one more instead of losing one."""
    path = tmp_path / f"a{suffix}"
    with VideoWriter(path, BY_SUFFIX[suffix], size, 12.5) as writer:
        for number in range(7):
            writer.write(numbered_frame(number, size), copies=1 + number % 2)
    assert writer.frames == 10
    video = VideoFile(path)
    frames = list(video.frames())
    assert len(frames) == 10
    assert video.rate == pytest.approx(12.5)
    height, width = size
    assert video.size == (height + height % 2, width + width % 2)
    found = frames[-1].image[:height, :width].astype(int)
    assert np.abs(found - numbered_frame(6, size)).mean() < 20


def test_a_frame_of_another_shape_is_an_error(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.avi", BY_SUFFIX[".avi"], (48, 64), 25) as writer:
        writer.write(numbered_frame(0))
        wrongs: list[Any] = [numbered_frame(0, (64, 48)), numbered_frame(0)[..., 0], numbered_frame(0).astype(float)]
        for wrong in wrongs:
            with pytest.raises(ValueError, match="expected \\(48, 64, 3\\) uint8"):
                writer.write(wrong)


def test_missing_frames_are_noticed(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.avi", BY_SUFFIX[".avi"], (48, 64), 25)
    with pytest.raises(WriteError, match="3 of 4 frames can be read back"), writer:
        for number in range(3):
            writer.write(numbered_frame(number))
        writer.frames += 1  # as if a write had failed silently, which OpenCV does


def test_the_first_format_that_works_is_used(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    missing = VideoFormat("a missing codec", "zzzz", ".mp4", True)
    found = find_format(tmp_path, (48, 64), 25, (missing, *FORMATS))
    assert found in FORMATS[:2]  # both are played by browsers
    assert found.in_browsers
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    with pytest.raises(PanformerError, match="cannot write a video of 64x48 pixels: tried a missing codec"):
        find_format(tmp_path, (48, 64), 25, (missing,))
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_block_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.avi", BY_SUFFIX[".avi"], (48, 64), 25):
        raise KeyboardInterrupt


class Shown:
    """Counts the frames that a `Pace` writes."""

    def __init__(self, rate: float) -> None:
        self.rate, self.frames = rate, 0

    def write(self, image: object, copies: int = 1) -> None:
        del image
        self.frames += copies


def test_a_jump_of_the_time_stamps_is_bounded() -> None:
    """A damaged video can claim that hours pass between two frames."""
    writer, image = Shown(25.0), np.zeros((2, 2, 3), np.uint8)
    pace = Pace(writer, 0.04)  # type: ignore[arg-type]
    for seconds in (0.0, 0.04, 36000.0, 36000.04, 36005.04):
        pace.show(image, seconds)
    pace.end()
    assert writer.frames == 1 + 250 + 1 + 125 + 1
    assert pace.cut == pytest.approx(36000 - 0.04 - LONGEST_STILL)


def test_large_gaps_of_a_stride_are_kept() -> None:
    """With a stride of 2000 at 25 frames per second, frames are 80 s apart, which is no wrong time stamp."""
    writer = Shown(LEAST_RATE)
    pace = Pace(writer, 80.0)  # type: ignore[arg-type]
    for seconds in (0.0, 80.0, 160.0):
        pace.show(np.zeros((2, 2, 3), np.uint8), seconds)
    pace.end()
    assert (writer.frames, pace.cut) == (161, 0.0)
