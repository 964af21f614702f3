"""Which files of its inputs `predict` takes, and what it says about the others."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panformer_cli.engine.inputs.find import find_images
from panformer_cli.engine.inputs.names import distinct_names
from panformer_cli.engine.predict import PredictRequest, predict
from panformer_cli.engine.runs import RunFolder
from panformer_cli.errors import DataError, PanformerError
from tests.engine.small import ALONE, StopAfter


def write(root: Path, *names: str) -> Path:
    """Write images and, for other suffixes, text files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if Path(name).suffix.lower() in (".jpg", ".png", ".gif", ".webp", ".avif", ".jp2", ".bmp", ".tif"):
            Image.new("RGB", (48, 40), (90, 120, 60)).save(root / name)
        else:
            (root / name).write_text("text")
    return root


def found(root: Path, *inputs: str) -> tuple[list[str], list[str]]:
    """Return the names of the images, and the notes."""
    given = [str(root / name) for name in inputs] or [str(root)]
    result = find_images(given, root / "out")
    return [image.name for image in result.images], result.notes


def test_files_left_out_are_counted_by_reason(tmp_path: Path) -> None:
    write(tmp_path, "a.JPG", "b.txt", "sub/c.TXT", "d.heic", "README", "movie.mp4", ".hidden.png", ".git/x.png")
    assert found(tmp_path) == (
        ["a.JPG"],
        [
            "7 files left out: 2 .txt (not images), 2 hidden, 1 .heic (needs pillow-heif), "
            "1 video (an image is expected here), "
            "1 without a suffix (not an image)"
        ],
    )


def test_everything_that_can_be_decoded_is_taken_without_a_note(tmp_path: Path) -> None:
    names = [f"{letter}.{suffix}" for letter, suffix in zip("abcdef", ("avif", "gif", "jp2", "png", "tif", "webp"))]  # noqa: B905
    write(tmp_path, *names)
    shutil.copy(write(tmp_path / "x", "g.jpg") / "g.jpg", tmp_path / "g.jfif")
    shutil.rmtree(tmp_path / "x")
    assert found(tmp_path) == ([*names, "g.jfif"], [])


def test_files_of_operating_systems_are_ignored_silently(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "Thumbs.db", ".DS_Store", "desktop.ini", "sub/Desktop.ini", "__MACOSX/a.png", "b/c.png")
    (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "b" / "._c.png").write_bytes(b"\0\5\x16\7")
    assert found(tmp_path) == (["a.png", "b/c.png"], [])
    assert found(tmp_path, "*") == (["a.png"], [])
    assert found(tmp_path, "Thumbs.db", "a.png") == (["a.png"], [])
    with pytest.raises(DataError, match=r"Thumbs\.db: no images, only files of the operating system"):
        found(tmp_path, "Thumbs.db")


@pytest.mark.parametrize("marker", ["panoptic.json", ".parts"])
def test_earlier_results_are_not_taken_as_inputs(tmp_path: Path, marker: str) -> None:
    write(
        tmp_path, "a.png", "old/overlays/sub/a.jpg", "old/panoptic/a.png", "overlays/b.png", "deep/new/panoptic/c.png"
    )
    (tmp_path / "old" / marker).mkdir() if marker == ".parts" else (tmp_path / "old" / marker).write_text("{}")
    names, notes = found(tmp_path)
    assert names == ["a.png", "deep/new/panoptic/c.png", "overlays/b.png"], "other folders may have these names"
    assert "2 results of an earlier call" in notes[0]
    for given in ("old/overlays", "old", "old/*/*.png"):
        with pytest.raises(DataError, match=r"no(t an)? (such )?image.*left out: .*results? of an earlier call"):
            found(tmp_path, given)


def test_a_pattern_leaves_out_what_a_folder_leaves_out(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b.txt")
    assert found(tmp_path, "*") == (["a.png"], ["1 file left out: 1 .txt (not an image)"])
    with pytest.raises(DataError, match=r"\*\.txt \(left out: 1 \.txt \(not an image\)\); give image files"):
        found(tmp_path, "*.txt")


def test_a_folder_without_images_says_what_it_has(tmp_path: Path) -> None:
    write(tmp_path / "in", "b.txt")
    with pytest.raises(DataError, match=r"in has no images \(left out: 1 \.txt \(not an image\)\)"):
        found(tmp_path, "in")


@pytest.mark.slow
def test_the_json_has_the_names_of_the_files(trained: RunFolder, tmp_path: Path) -> None:
    """Results of a.jpg and a.png need different names, but the JSON says which is which."""
    write(tmp_path / "in", "a.jpg", "a.png", "b/c.png")
    write(tmp_path / "other", "c.png")
    out = tmp_path / "out"
    given = [str(tmp_path / "in"), str(tmp_path / "in" / "b" / "c.png"), str(tmp_path / "other" / "c.png")]
    content = predict(PredictRequest(given, trained.best, out), ALONE, StopAfter()).content
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "a.png", "b/c.png", "c.png"]
    pngs = [annotation["file_name"] for annotation in content["annotations"]]
    assert pngs == ["a.png", "a_2.png", "b/c.png", "c.png"]
    assert all((out / "overlays" / png).with_suffix(".jpg").is_file() for png in pngs)
    both = find_images([str(tmp_path / "in" / "b" / "c.png"), str(tmp_path / "other" / "c.png")], out).images
    assert [image.file_name for image in both] == ["c.png", "c_2.png"], "equal names cannot be told apart"
    predict(PredictRequest([given[2]], trained.best, out), ALONE, StopAfter())
    assert {path.name for path in (out / "overlays").rglob("*.jpg")} == {"c.jpg"}


def test_a_link_to_a_folder_is_named(tmp_path: Path) -> None:
    write(tmp_path, "in/a.png", "elsewhere/b.png")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    assert found(tmp_path, "in") == (["a.png"], ["1 file left out: 1 link to a folder (not followed)"])


def test_an_image_in_the_folder_of_results_is_not_overwritten(trained: RunFolder, tmp_path: Path) -> None:
    image = write(tmp_path, "out/overlays/a.jpg") / "out" / "overlays" / "a.jpg"
    before = image.read_bytes()
    with pytest.raises(PanformerError, match=r"overlays/a\.jpg is in --out"):
        predict(PredictRequest([str(image)], trained.best, tmp_path / "out"), ALONE, StopAfter())
    assert image.read_bytes() == before


@pytest.mark.slow
def test_several_pages_and_frames_are_reported_once(trained: RunFolder, tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((40, 48, 3), value, np.uint8)) for value in (10, 200)]
    for name in ("a.gif", "b.tif"):
        frames[0].save(write(tmp_path, "in/c.png") / "in" / name, save_all=True, append_images=frames[1:])
    reporter = StopAfter()
    result = predict(PredictRequest([str(tmp_path / "in")], trained.best, tmp_path / "out"), ALONE, reporter)
    assert not result.failures and len(result.content["images"]) == 3
    assert reporter.messages == ["Only the first page or frame is used of 2 images: a.gif, b.tif"]


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("predict-appledouble", ["00_ref.png"]),
        ("predict-folder-skips-readable-kinds", ["a.png", "b.avif", "c.gif", "d.jfif"]),
    ],
)
def test_reported_cases(trained: RunFolder, tmp_path: Path, shared: Path, case: str, names: list[str]) -> None:
    photos = shared / "cases" / case / "photos"
    result = predict(PredictRequest([str(photos)], trained.best, tmp_path / "out"), ALONE, StopAfter())
    assert not result.failures
    assert [image["file_name"] for image in json.loads(result.json.read_text())["images"]] == names


@pytest.mark.slow
def test_a_float_tiff_is_named_as_such(
    trained: RunFolder, tmp_path: Path, shared: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photos = shared / "cases" / "float-tiff-damaged" / "photos"
    result = predict(PredictRequest([str(photos)], trained.best, tmp_path / "out"), ALONE, StopAfter())
    assert len(result.failures) == 1 and "32-bit float TIFF is not supported" in result.failures[0]
    assert capfd.readouterr() == ("", "")


def test_a_link_to_itself_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, "in/a.png")
    for name in ("b.png", "loop", "sub"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "in" / name)
    assert found(tmp_path, "in") == (["a.png"], ["3 files left out: 3 not regular files"])
    assert found(tmp_path, "in/*") == (["a.png"], [])


def test_a_link_into_the_results_is_skipped(tmp_path: Path) -> None:
    write(tmp_path, "in/a.png", "out/b.png")
    (tmp_path / "in" / "c.png").symlink_to(tmp_path / "out" / "b.png")
    (tmp_path / "in" / "d.png").symlink_to(tmp_path / "in" / "a.png")
    assert found(tmp_path, "in") == (["a.png", "d.png"], [])


@pytest.mark.parametrize("given", ["out/photos", "out", "out/photos/*", "out/**/*.png"])
def test_an_input_in_the_folder_of_results(tmp_path: Path, given: str) -> None:
    """Only the folders that `predict` writes are skipped."""
    write(tmp_path, "out/photos/a.png", "out/overlays/a.jpg", "out/panoptic/a.png")
    (tmp_path / "out" / "panoptic.json").write_text("{}")
    names, _ = found(tmp_path, given)
    assert names == ["photos/a.png" if given == "out" else "a.png"]


def test_folders_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "in/a.png", "in/locked/b.png")
    locked, scandir = tmp_path / "in" / "locked", os.scandir

    def denied(path: str) -> Any:
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    assert found(tmp_path, "in") == (["a.png"], [f"1 folder cannot be read: {locked}"])
    with pytest.raises(DataError, match=rf"locked has no images \(1 folder cannot be read: {locked}\); expected"):
        found(tmp_path, "in/locked")


def test_a_file_is_taken_once_whatever_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "in/a.png", "in/b.png")
    monkeypatch.chdir(tmp_path)
    given = ["in/a.png", str(tmp_path / "in" / "a.png"), "in/../in/a.png", str(tmp_path / "in"), "in/*.png"]
    images = find_images(given, Path("out")).images
    assert [(str(image), image.name) for image in images] == [
        ("in/a.png", "a.png"),
        (f"{tmp_path}/in/b.png", "b.png"),
    ]


@pytest.mark.slow
def test_many_equal_names_are_numbered_in_one_pass() -> None:
    """With a search from 2 for each name, 20,000 of them take minutes."""
    names = list(distinct_names(["a_3.png", *["a.png"] * 20_000, "A.jpg"]))
    assert names[:4] == ["a_3.png", "a.png", "a_2.png", "a_4.png"]
    assert names[-2:] == ["a_20001.png", "A_20002.jpg"] and len(set(names)) == 20_002


@pytest.mark.parametrize("given", ["", "  "])
def test_an_empty_input_is_refused(tmp_path: Path, given: str) -> None:
    with pytest.raises(DataError, match=r"an input is empty; .* variable of the shell"):
        find_images([given], tmp_path / "out")
