"""Videos among the inputs of `predict`: where they are found, and what is said of those that are not used."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from panformer_cli.engine.inputs.find import FoundInputs, find_inputs
from panformer_cli.engine.inputs.video_sources import CopiedVideo, InputVideo
from panformer_cli.errors import DataError
from tests.engine.video.clips import clip
from tests.storage.file_server import FileServer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with images, videos and others, and results of an earlier call."""
    for name in ("a.jpg", "b.MP4", "sub/b.mp4", "sub/c.png", "code.ts", "note.txt", ".x.mp4", "old/videos/b.webm"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "in/old/videos/b.json").write_text('{"video": {"tracks": 1, "overlay": "b.webm"}, "images": [\n]}')
    return tmp_path / "in"


def found_in(found: FoundInputs) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the names of the images, and the videos with the names of their results."""
    return [image.name for image in found.images.images], [(str(video.source), video.name) for video in found.videos]


def test_a_folder_has_images_and_videos(folder: Path) -> None:
    found = find_inputs([str(folder)], Path("nowhere"))
    assert found_in(found) == (
        ["a.jpg", "sub/c.png"],
        [(f"{folder}/b.MP4", "b"), (f"{folder}/sub/b.mp4", "sub/b")],
    )
    (note,) = found.images.notes
    assert note.startswith("5 files left out: ")
    assert "1 .ts (not an image)" in note and "1 result of an earlier call" in note and "1 hidden" in note


def test_results_in_the_folder_are_no_inputs(folder: Path) -> None:
    """Neither those of this `--out`, if it contains the input, nor the input if it is `--out`."""
    assert [video.name for video in find_inputs([str(folder)], folder).videos] == ["b", "sub/b"]
    (folder / "videos").mkdir()
    (folder / "videos/new.webm").touch()
    assert [video.name for video in find_inputs([str(folder)], folder).videos] == ["b", "sub/b"]


def test_patterns_lists_cameras_and_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    Path("7").touch()
    Path("list.txt").write_text("b.MP4\nhttp://host/x/far.webm?size=1\ngone.mov\nsub/*.mp4\ncode.ts\n")
    inputs = ["sub/*", "0", "7", "list.txt", "b.MP4"]
    images, videos = found_in(find_inputs(inputs, Path("nowhere")))
    assert images == ["c.png", "7"]
    assert videos == [
        *(("sub/b.mp4", "b"), ("camera 0", "camera_0"), ("b.MP4", "b_2")),
        *(("http://host/x/far.webm?size=1", "far"), ("gone.mov", "gone"), ("code.ts", "code")),
    ]
    with pytest.raises(DataError, match=r"no such image, video, folder or pattern: gone\.mp4"):
        find_inputs(["gone.mp4"], Path("nowhere"))


def test_a_call_that_is_for_images_counts_the_videos_and_refuses_named_ones(folder: Path) -> None:
    found = find_inputs([str(folder)], Path("nowhere"), only_images="--resume is for images")
    assert found_in(found) == (["a.jpg", "sub/c.png"], [])
    assert "2 videos (--resume is for images)" in found.images.notes[0]
    for given in (str(folder / "b.MP4"), "0", "http://host/a.mp4"):
        with pytest.raises(DataError, match="is a video, and --resume is for images; predict it with a call of its"):
            find_inputs([given], Path("nowhere"), only_images="--resume is for images")
    with pytest.raises(DataError, match=r"s3://b/a\.mp4: videos in object stores cannot be read; download it"):
        find_inputs(["s3://b/a.mp4"], Path("nowhere"))


def test_a_video_in_an_archive_or_at_an_address_is_copied_while_it_is_read(tmp_path: Path, server: FileServer) -> None:
    content = clip(tmp_path / "a.mp4", 3).read_bytes()
    with zipfile.ZipFile(tmp_path / "clips.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sub/a.mp4", content)
        archive.writestr("b.mp4", b"")
    server.named["a.mp4"] = content
    found = find_inputs([str(tmp_path / "clips.zip"), f"{server.url}/a.mp4"], Path("nowhere"))
    assert [video.name for video in found.videos] == ["b", "sub/a", "a"]
    (work := tmp_path / "work").mkdir()
    for video in found.videos[1:]:
        with video.source.opened(work) as path:
            assert isinstance(path, Path) and path.suffix == ".mp4" and path.read_bytes() == content
        assert not list(work.iterdir())
    assert isinstance(found.videos[0], InputVideo) and isinstance(found.videos[0].source, CopiedVideo)
    (tmp_path / "clips.zip").write_bytes(b"")
    with pytest.raises(DataError, match="a.mp4 is corrupt"), found.videos[1].source.opened(work):
        pass
    assert not list(work.iterdir())
