"""`panformer predict` with videos: what it prints, and its exit codes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from panformer_cli.cli.main import main
from tests.engine.small import small_checkpoint, small_scenes
from tests.engine.video.clips import clip, truncate


def run(*words: object) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


@pytest.mark.slow
def test_videos_and_images_in_one_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = small_scenes(tmp_path / "scenes", 1, 1)
    checkpoint = small_checkpoint(tmp_path / "c.safetensors", scenes)
    video, short = clip(scenes / "images/val/sub/clip.mp4", 6), clip(tmp_path / "cut.webm", 30, noise=True)
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("packed.mp4", video.read_bytes())
    truncate(short, 0.5)
    options = ("--out", tmp_path / "viz", "--checkpoint", checkpoint, "--device", "cpu", "--stride", 3)
    assert run("predict", scenes / "images/val", tmp_path / "more.zip", *options) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-4].startswith("1 image segmented, 0 failed")
    assert f"{video}: 2 frames, " in printed[-3]
    assert "clip.webm is VP8 without audio, for browsers and players" in printed[-3]
    assert f"{tmp_path / 'more.zip'}/packed.mp4: 2 frames, " in printed[-2]
    assert printed[-1] == f"2 videos segmented, 0 problems; results: {tmp_path / 'viz' / 'videos'}"
    assert (tmp_path / "viz/panoptic.json").is_file()
    written = [path.relative_to(tmp_path / "viz/videos").as_posix() for path in (tmp_path / "viz/videos").rglob("*")]
    assert sorted(written) == ["packed.json", "packed.webm", "sub", "sub/clip.json", "sub/clip.webm"]

    assert run("predict", video, short, *options, "--save", "json,panoptic", "--json") == 1
    content = json.loads(capsys.readouterr().out)
    assert [(row["frames"], row["overlay"], row["json"]) for row in content["videos"]][0] == (2, None, "clip.json")
    assert len(content["videos"]) == 2
    assert "frames can be decoded" in content["failures"][0]
    names = sorted(path.name for path in (tmp_path / "viz/videos/clip").iterdir())
    assert names == ["000000.png", "000003.png"]
    assert not (tmp_path / "viz/videos/clip.webm").exists()  # of the first call


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--resume",), "a.mp4 is a video, and --resume is for images; predict it with a call of its own"),
        (("--save", "masks"), "of a video, only overlay, json, panoptic can be written"),
        (("--stride", "0"), "0 is not in the range x>=1"),
    ],
)
def test_options_that_do_not_fit_videos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert run("predict", clip(tmp_path / "a.mp4", 1), "--out", tmp_path / "viz", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "viz").exists()


def test_the_help_says_that_audio_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    assert "without audio" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("option", ["--stride", "--track-memory"])
def test_options_of_videos_need_a_video(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jpg").touch()
    assert run("predict", str(tmp_path), "--out", str(tmp_path / "out"), option, "2") == 2
    assert "--stride and --track-memory are for videos and cameras: no input is one" in capsys.readouterr().err
