"""Prediction of whole videos, with a stand-in for the model that knows the answer and with a real one."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import ImageArray, PanopticMap
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.inference_changes import InferenceChanges
from panformer_cli.engine.inputs.find import find_inputs
from panformer_cli.engine.inputs.video_sources import InputVideo, LocalVideo, named_videos
from panformer_cli.engine.outputs.options import OutputOptions
from panformer_cli.engine.video import predict as module
from panformer_cli.engine.video import reading
from panformer_cli.engine.video.options import VideoOptions
from panformer_cli.engine.video.predict import VideoRequest, VideoResults, predict_videos
from panformer_cli.engine.video.reading import VideoFile
from panformer_cli.engine.video.results import VideoJson
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.reporting import SilentReporter
from tests.engine.small import ALONE, StopAfter, small_checkpoint, small_scenes
from tests.engine.video.clips import clip, numbered_frame, set_times, truncate, turn
from tests.engine.video.test_reading import FakeCapture

CORNER, BAR, GROUND = 3, 5, 9
TABLE = CategoryTable([Category(CORNER, "corner", True), Category(BAR, "bar", True), Category(GROUND, "ground", False)])
EVERYTHING = ("overlay", "json", "panoptic")


class ColorModel(Predictor):
    """Stands for a `Predictor`: a red pixel is a corner, a white one a bar, with other ids in every frame."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.calls = 0

    @property
    def categories(self) -> CategoryTable:
        return TABLE

    def notes(self) -> list[str]:
        return []

    def map(self, images: Iterable[Any], finish: Callable[[Any, Any], Any], batch_size: int = 1) -> Iterator[Any]:
        for key, image in images:
            yield finish(key, SimpleNamespace(panoptic=self.segmented(image)))

    def segmented(self, image: ImageArray) -> PanopticMap:
        self.calls += 1
        first = 10 * self.calls
        red, green = image[..., 0].astype(int), image[..., 1].astype(int)
        ids = np.full(red.shape, first + 2, np.int32)
        ids[green > 150] = first + 1
        ids[(red > 130) & (green < 110)] = first
        return PanopticMap(ids, segments_of(ids, {first: CORNER, first + 1: BAR, first + 2: GROUND}))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> ColorModel:
    """Replace the checkpoint and its predictor."""

    class Checkpoint:
        categories = TABLE

    found = ColorModel()
    monkeypatch.setattr(InferenceChanges, "read", lambda self, path, reporter: Checkpoint())
    monkeypatch.setattr(module, "predictor_of", lambda *arguments: found)
    return found


def run(
    out: Path,
    *paths: Path | int,
    save: tuple[str, ...] = ("overlay", "json"),
    options: VideoOptions | None = None,
    reporter: SilentReporter | None = None,
) -> VideoResults:
    videos = find_inputs([str(path) for path in paths], out).videos
    request = VideoRequest(videos, Path("c"), out, output=OutputOptions(save), options=options or VideoOptions())
    return predict_videos(request, ALONE, reporter or SilentReporter())


def content_of(out: Path, name: str = "a") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "videos" / f"{name}.json").read_text())
    return content


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def tracks(content: dict[str, Any]) -> list[dict[str, int]]:
    """Return the track ids of each frame by category."""
    return [{s["category_name"]: s["track_id"] for s in row["segments_info"]} for row in content["annotations"]]


def test_the_results_of_a_video(model: ColorModel, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = run(out, clip(tmp_path / "a.mp4", 8), save=EVERYTHING)
    summary = results.videos[0]
    assert results.failures == []
    assert summary.overlay in ("a.webm", "a.mp4")
    assert names_in(out / "videos") == sorted([*(f"a/{n:06d}.png" for n in range(8)), "a.json", summary.overlay])
    content = content_of(out)
    assert list(content) == ["video", "images", "annotations", "categories"]
    assert content["video"] == {**vars(summary), "size": [64, 48]}
    assert (summary.frames, summary.decoded, summary.promised, summary.complete, summary.tracks) == (8, 8, 8, True, 3)
    assert [row["seconds"] for row in content["images"]] == pytest.approx([n / 25 for n in range(8)])
    assert [row["id"] for row in content["images"]] == [row["image_id"] for row in content["annotations"]]
    assert tracks(content) == [{"corner": 1, "bar": 2, "ground": 3}] * 8


def test_what_a_killed_process_left_is_deleted(model: ColorModel, tmp_path: Path) -> None:
    videos = tmp_path / "out" / "videos"
    for name in (".a.4000000.tmp/a.webm", ".a.mine.tmp/b.png", ".other.4000000.tmp/c.webm"):
        (videos / name).parent.mkdir(parents=True)
        (videos / name).touch()
    run(tmp_path / "out", clip(tmp_path / "a.mp4", 2), save=("json",))
    assert names_in(videos) == [".a.mine.tmp/b.png", ".other.4000000.tmp/c.webm", "a.json"]


def test_a_process_that_was_killed_between_its_renames_is_no_obstacle(model: ColorModel, tmp_path: Path) -> None:
    """The video and some PNGs are in place, and the JSON is still in the temporary folder."""
    out, path = tmp_path / "out", clip(tmp_path / "a.mp4", 2)
    run(out, path, save=EVERYTHING)
    expected = names_in(out / "videos")
    abandoned = out / "videos/.a.4000000.tmp"
    abandoned.mkdir()
    (out / "videos/a.json").rename(abandoned / "a.json")
    run(out, path, save=EVERYTHING)
    assert names_in(out / "videos") == expected
    abandoned.mkdir()
    (out / "videos/a.json").rename(abandoned / "a.json")
    run(out, path, save=("json",))
    assert names_in(out / "videos") == ["a.json"]


def test_pngs_records_and_colors_agree(model: ColorModel, tmp_path: Path) -> None:
    """In every frame, the mask of a track is the segment with its id, class and area, in one color of the video."""
    out = tmp_path / "out"
    summary = run(out, clip(tmp_path / "a.mp4", 6), save=EVERYTHING).videos[0]
    frames = list(VideoFile(out / "videos" / str(summary.overlay)).frames())
    assert len(frames) == summary.overlay_frames == 6
    colors = []
    for number, row in enumerate(content_of(out)["annotations"]):
        rgb = np.asarray(Image.open(out / "videos" / "a" / row["file_name"])).astype(int)
        ids = rgb @ [1, 256, 65536]
        truth = model.segmented(numbered_frame(number))  # the ids differ, the masks do not
        assert {s["id"] for s in row["segments_info"]} == set(np.unique(ids).tolist())
        for segment in row["segments_info"]:
            mask = ids == segment["id"]
            assert segment["id"] == segment["track_id"]
            assert segment["area"] == mask.sum()
            same = next(s for s in truth.segments if s.category_id == segment["category_id"])
            assert abs(int(mask.sum()) - same.area) < 0.1 * same.area  # decoded colors differ a little
        colors.append(frames[number].image[2:12, 2:12].mean(axis=(0, 1)))
    assert np.ptp(colors, axis=0).max() < 12


def test_a_stride(model: ColorModel, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = run(out, clip(tmp_path / "a.mp4", 10), options=VideoOptions(stride=4)).videos[0]
    assert [row["id"] for row in content_of(out)["images"]] == [0, 4, 8]
    assert [row["seconds"] for row in content_of(out)["images"]] == pytest.approx([0, 0.16, 0.32])
    assert (summary.frames, summary.decoded, summary.overlay_frames, summary.stride) == (3, 10, 3, 4)
    assert model.calls == 3
    video = VideoFile(out / "videos" / str(summary.overlay))
    assert [frame.seconds for frame in video.frames()] == pytest.approx([0, 0.16, 0.32], abs=0.002)


def test_a_variable_rate_keeps_times_and_length(model: ColorModel, tmp_path: Path) -> None:
    path, out = clip(tmp_path / "a.webm", 4), tmp_path / "out"
    set_times(path, [0, 40, 200, 240])
    summary = run(out, path).videos[0]
    assert [row["seconds"] for row in content_of(out)["images"]] == pytest.approx([0, 0.04, 0.2, 0.24])
    assert (summary.frames, summary.overlay_frames, summary.rate) == (4, 7, 25)
    shown = [frame.image for frame in VideoFile(out / "videos" / str(summary.overlay)).frames()]
    bars = [int(image[40].mean(axis=-1).argmax()) // 4 for image in shown]
    assert bars == [0, 1, 1, 1, 1, 2, 3]


def test_a_portrait_video_stays_upright(model: ColorModel, tmp_path: Path) -> None:
    path, out = clip(tmp_path / "a.mp4", 3), tmp_path / "out"
    turn(path)
    summary = run(out, path).videos[0]
    assert summary.size == (48, 64)
    found = VideoFile(out / "videos" / str(summary.overlay))
    assert found.size == (64, 48)
    box = next(s["bbox"] for s in content_of(out)["annotations"][0]["segments_info"] if s["category_id"] == CORNER)
    assert box[0] > 24 > box[1] + box[3] - 12  # at the top right, see `test_reading`


@pytest.mark.slow
def test_a_second_video_has_ids_from_1_and_the_first_results_stay(model: ColorModel, tmp_path: Path) -> None:
    a, b, out = clip(tmp_path / "a.mp4", 4), clip(tmp_path / "b.mp4", 6), tmp_path / "out"
    run(tmp_path / "alone", b)
    together = run(out, a, b)
    assert [video.frames for video in together.videos] == [4, 6]
    assert tracks(content_of(out, "b")) == tracks(content_of(tmp_path / "alone", "b"))
    run(out, a, save=("json",))  # without the overlay of the first call; only the results of this video are replaced
    assert names_in(out / "videos") == ["a.json", "b.json", str(together.videos[1].overlay)]


def test_equal_names_do_not_collide(model: ColorModel, tmp_path: Path) -> None:
    given = [clip(tmp_path / name, 2) for name in ("x/a.mp4", "y/a.mp4", "y/a.avi")]
    assert [video.json for video in run(tmp_path / "out", *given, given[0]).videos] == [
        "a.json",
        "a_2.json",
        "a_3.json",
    ]


@pytest.mark.slow
def test_a_truncated_video_and_a_broken_one_are_reported(model: ColorModel, tmp_path: Path) -> None:
    short, broken = clip(tmp_path / "a.webm", 30, noise=True), tmp_path / "b.mp4"
    truncate(short, 0.6)
    broken.write_text("not a video")
    reporter = StopAfter()
    results = run(tmp_path / "out", short, broken, clip(tmp_path / "c.mp4", 2), reporter=reporter)
    assert [Path(video.source).name for video in results.videos] == ["a.webm", "c.mp4"]
    assert results.failures == reporter.warnings
    assert "of 30 frames can be decoded" in results.failures[0]
    assert "b.mp4: no frame of this video can be decoded" in results.failures[1]
    assert len(content_of(tmp_path / "out")["images"]) == results.videos[0].frames < 25


class StopAtFrame(SilentReporter):
    """Sends this process a signal after some frames."""

    def __init__(self, frames: int) -> None:
        self.left = frames
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, what: str, total: int, done: int = 0) -> Any:
        return nullcontext(self)

    def advance(self, steps: int = 1, status: str = "") -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_leaves_a_shorter_video(model: ColorModel, tmp_path: Path) -> None:
    out = tmp_path / "out"
    reporter = StopAtFrame(3)
    with pytest.raises(KeyboardInterrupt, match=r"Stopped after 3 frames of .*a\.mp4; results: .*videos"):
        run(out, clip(tmp_path / "a.mp4", 10), clip(tmp_path / "b.mp4", 10), reporter=reporter)
    assert reporter.warnings == []  # the other frames are not damaged
    video = content_of(out)["video"]
    assert (video["frames"], video["complete"]) == (3, False)
    assert len(list(VideoFile(out / "videos" / video["overlay"]).frames())) == 3
    assert names_in(out / "videos") == ["a.json", video["overlay"]]


def test_a_camera_ends_with_ctrl_c(model: ColorModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [numbered_frame(number)[..., ::-1].copy() for number in range(9)]
    monkeypatch.setattr(reading, "_opened", lambda source: nullcontext(FakeCapture(images)))
    monkeypatch.chdir(tmp_path)
    reporter = StopAfter()
    results = run(tmp_path / "out", 0, reporter=reporter)
    assert reporter.messages == ["Reading camera 0; press Ctrl-C to stop"]
    monkeypatch.setattr(VideoJson, "add", stop_at(3, VideoJson.add))
    stopped = run(tmp_path / "out", 0)
    assert [(video.frames, video.complete) for video in (*results.videos, *stopped.videos)] == [(9, True), (3, True)]
    assert content_of(tmp_path / "out", "camera_0")["video"]["source"] == "camera 0"


def stop_at(frame: int, add: Callable[..., None]) -> Callable[..., None]:
    """Return `add` that sends SIGINT after some calls."""
    calls = []

    def adding(*arguments: Any) -> None:
        add(*arguments)
        calls.append(1)
        if len(calls) == frame:
            signal.raise_signal(signal.SIGINT)

    return adding


def test_an_error_leaves_nothing(model: ColorModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that exist are replaced only by complete ones."""
    path, out = clip(tmp_path / "a.mp4", 5), tmp_path / "out"
    before = run(out, path).videos[0]
    kept = {name: (out / "videos" / name).read_bytes() for name in names_in(out / "videos")}

    def fail(*arguments: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(module, "draw_panoptic", fail)
    for folder in (out, tmp_path / "new"):
        with pytest.raises(RuntimeError, match="no"):
            run(folder, path)
    assert {name: (out / "videos" / name).read_bytes() for name in names_in(out / "videos")} == kept
    assert before.overlay in kept
    assert not (tmp_path / "new" / "videos").exists()


@pytest.mark.parametrize("name", ["a.json", "a.webm", "a/000000.png"])
def test_a_file_of_the_user_is_not_replaced(model: ColorModel, tmp_path: Path, name: str) -> None:
    mine = tmp_path / "out" / "videos" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("{}")
    with pytest.raises(PanformerError, match="is not a result of panformer and would be replaced"):
        run(tmp_path / "out", clip(tmp_path / "a.mp4", 2))
    assert mine.read_text() == "{}"


def test_nothing_of_the_user_is_deleted(model: ColorModel, tmp_path: Path) -> None:
    """Only the video that the earlier JSON names is replaced, and never an input."""
    path, out = clip(tmp_path / "a.mp4", 2), tmp_path / "out"
    first = run(out, path, save=EVERYTHING).videos[0]
    (out / "videos/a/notes.txt").write_text("mine")
    run(out, path)
    assert names_in(out / "videos") == sorted(["a.json", "a/notes.txt", str(first.overlay)])
    with pytest.raises(PanformerError, match="where results are replaced"):
        run(out, out / "videos" / str(first.overlay))
    (out / "videos/a.avi").write_text("mine")
    with pytest.raises(PanformerError, match=r"a\.avi is not a result of panformer"):
        run(out, path)


def test_results_never_lead_out_of_the_folder(model: ColorModel, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/videos").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="through a symbolic link"):
        run(tmp_path / "out", clip(tmp_path / "a.mp4", 2))
    assert names_in(tmp_path / "elsewhere") == []


def test_drawing_in_threads_changes_nothing(model: ColorModel, tmp_path: Path) -> None:
    """Beside a GPU, threads draw the frames, and they are written in order."""
    path, outs = clip(tmp_path / "a.mp4", 12), (tmp_path / "cpu", tmp_path / "gpu")
    for out in outs:
        model.device = torch.device(out.name.replace("gpu", "cuda"))
        run(out, path)
    first, second = (content_of(out) for out in outs)
    assert tracks(first) == tracks(second)
    videos = [list(VideoFile(out / "videos" / first["video"]["overlay"]).frames()) for out in outs]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(*videos, strict=True))


def test_other_outputs_are_refused(model: ColorModel, tmp_path: Path) -> None:
    with pytest.raises(PanformerError, match="--save masks: of a video, only overlay, json, panoptic can be written"):
        run(tmp_path / "out", clip(tmp_path / "a.mp4", 2), save=("json", "masks"))


@pytest.mark.parametrize("suffix", ["webm", "mp4", "AVI", "json"])
def test_results_of_a_video_are_no_folder_of_another_one(suffix: str) -> None:
    """The video of a.mov can be a.webm, and so the frames of a.webm.mov need another folder."""
    names = ["a.mov", f"a.{suffix}.mov", f"a_{suffix}.mov", "a.b.mov"]
    videos = named_videos((LocalVideo(Path(name)), name) for name in names)
    assert [video.name for video in videos] == ["a", f"a_{suffix}", f"a_{suffix}_2", "a.b"]


@pytest.mark.slow
def test_batches_change_nothing_and_frames_are_read_as_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Incomplete batches count, and only the frames of a batch are in memory, with a real model."""
    path = clip(tmp_path / "a.mp4", 10)
    checkpoint = small_checkpoint(tmp_path / "c.safetensors", small_scenes(tmp_path / "scenes", 1, 1))
    alive, most = [0], [0]
    original_frames, original_add = VideoFile.frames, VideoJson.add

    def frames(self: VideoFile, stride: int = 1) -> Iterator[Any]:
        for frame in original_frames(self, stride):
            alive[0] += 1
            most[0] = max(most[0], alive[0])
            yield frame

    def add(self: VideoJson, *arguments: Any) -> None:
        alive[0] -= 1
        original_add(self, *arguments)

    monkeypatch.setattr(VideoFile, "frames", frames)
    monkeypatch.setattr(VideoJson, "add", add)
    rows = []
    for batch_size in (1, 4, 16):
        out = tmp_path / str(batch_size)
        most[0] = 0
        request = VideoRequest([InputVideo(LocalVideo(path), "a")], checkpoint, out, batch_size)
        predict_videos(request, ALONE, SilentReporter())
        content = content_of(out)
        rows.append([[(s["track_id"], s["bbox"]) for s in row["segments_info"]] for row in content["annotations"]])
        assert len(content["annotations"]) == 10
        assert most[0] <= batch_size
    assert rows[0] == rows[1] == rows[2]
    assert any(rows[0])
