"""Videos from Python: frames, tracks, and what is wrong with a video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panformer_cli.api.model import Model
from panformer_cli.data.opencv import cv2
from panformer_cli.errors import DataError, PanformerError
from tests.color_family import HEIGHT, WIDTH

FRAMES = 6
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def moving(visible: Iterator[bool] | None = None) -> Iterator[Pixels]:
    """Yield frames of a blue sky with a red square that moves by 4 pixels per frame."""
    for number in range(FRAMES):
        image = np.full((HEIGHT, WIDTH, 3), (20, 40, 200), np.uint8)
        if visible is None or next(visible):
            image[16:32, 4 * number : 4 * number + 16] = (210, 30, 60)
        yield image


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (WIDTH, HEIGHT))
    for image in moving():
        writer.write(image[..., ::-1])
    writer.release()
    return path


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_ids_of_a_video_file_stay_with_an_object(model: Model, clip: Path, batch_size: int) -> None:
    results = list(model.track(clip, batch_size=batch_size))
    assert len(results) == FRAMES
    assert all([(s.id, s.name) for s in result.segments] == [(1, "red"), (2, "sky")] for result in results)
    lefts = [result.segments[0].box[0] for result in results]
    assert lefts == pytest.approx([0, 4, 8, 12, 16, 20], abs=1)
    assert results[0].source == str(clip)


def test_frames_give_the_same_tracks_as_the_file(model: Model) -> None:
    results = list(model.track(moving()))
    assert [result.segments[0].id for result in results] == [1] * FRAMES
    bgr = model.track((frame[..., ::-1] for frame in moving()), color="bgr", stride=2)
    strided = list(bgr)
    assert len(strided) == FRAMES // 2
    for found, expected in zip(strided, results[::2], strict=True):
        assert np.array_equal(found.segment_ids, expected.segment_ids)


def test_an_object_that_was_hidden_keeps_its_id_within_the_memory(model: Model) -> None:
    seen = (True, True, False, False, True, True)
    for memory, expected in ((3, 1), (0, 3)):
        *_, last = model.track(moving(iter(seen)), memory=memory)
        assert {segment.name: segment.id for segment in last.segments} == {"red": expected, "sky": 2}


def test_every_frame_has_files_of_its_own(model: Model, clip: Path, tmp_path: Path) -> None:
    for _ in range(2):
        for result in model.track(clip, stride=2):
            result.save(tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out" / "overlays").iterdir())
    assert names == ["clip-000000.jpg", "clip-000002.jpg", "clip-000004.jpg"]
    assert [result.frame for result in model.track(clip, stride=2)] == [0, 2, 4]


def test_every_video_has_ids_of_its_own(model: Model) -> None:
    for _ in range(2):
        assert [segment.id for segment in next(model.track(moving())).segments] == [1, 2]


def test_an_object_keeps_its_color_and_shows_its_id(model: Model) -> None:
    results = list(model.track(moving()))
    colors = [tuple(result.plot(labels=False, contours=False)[20, 4 * n + 8]) for n, result in enumerate(results)]
    assert len(set(colors)) == 1
    large = np.asarray(results[0].image).repeat(8, axis=0).repeat(8, axis=1)
    [tracked] = model.track([large])
    assert (tracked.plot() != model(large).plot()).any(), "the label has the id"


def test_what_is_wrong_with_a_video_is_reported(model: Model, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for given in (tmp_path / "text.mp4", str(tmp_path / "missing.mp4")):
        with pytest.raises(DataError, match=r"text\.mp4|missing\.mp4"):
            model.track(given)
    with pytest.raises(DataError, match="frame 1: .*expected one size"):
        list(model.track([np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)]))
    with pytest.raises(PanformerError, match="stride is 0; expected 1 or more"):
        model.track([], stride=0)
