"""Listing the files of a source."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from panformer_cli.errors import DataError
from panformer_cli.prepare.source import SourceImage, listed_files, visible, with_unused_labels

NAMES = (
    "b.jpg", "a/2.JPG", "a/10.png", "a.jpg", "a-1.jpg", "a/c/1.jpg", "a/.hidden.jpg", ".cache/1.jpg", "a/notes.txt",
    "Z.jpg", "é/ü.jpg", "a b/1.jpg", "a/c.jpg", "empty.jpg/readme",
)  # fmt: skip


def test_files_are_sorted_by_their_parts(tmp_path: Path) -> None:
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    expected = [
        path
        for path in sorted(tmp_path.rglob("*"))
        if path.suffix.lower() in (".jpg", ".png")
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(tmp_path).parts)
    ]
    assert list(listed_files(tmp_path)) == expected and len(expected) == 10


def test_what_operating_systems_leave_behind_is_not_visible(tmp_path: Path) -> None:
    for name in ("b/c.jpg", "a.jpg", "__MACOSX/x", "@eaDir/a.jpg/THUMB.jpg", "Thumbs.db", "._a.jpg", ".git/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert visible(tmp_path) == [tmp_path / "a.jpg", tmp_path / "b"]
    assert visible(tmp_path / "missing") == []


def test_a_folder_named_like_an_image_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").mkdir()
    (tmp_path / "a.jpg/b.jpg").touch()
    assert list(listed_files(tmp_path)) == [tmp_path / "a.jpg/b.jpg"]


def test_a_linked_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.jpg").touch()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "other")
    with pytest.raises(DataError, match=r"in/linked is a link to a folder, which is not followed"):
        list(listed_files(tmp_path / "in"))
    assert [path.name for path in listed_files(tmp_path / "other")] == ["a.jpg"]


def test_labels_without_an_image_are_reported(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    bare = SourceImage(1, tmp_path / "a.jpg", "a.jpg")  # for example, of a mask folder without objects
    for image, problems in ((bare, paths), (replace(bare, labels=(paths[1],)), [paths[0], paths[2]])):
        first, *bad = with_unused_labels([image], paths, tmp_path / "images")
        assert first is image and [one.path for one in bad] == problems
        assert all(f"{one.path} has no image in {tmp_path}/images; expected" in one.problem for one in bad)
        assert len({(one.id, one.file_name) for one in bad}) == len(bad)
    assert list(with_unused_labels([], paths, tmp_path)) == []


def test_a_link_that_points_outside_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "a.jpg").touch()
    (tmp_path / "in" / "b.jpg").symlink_to(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="points outside"):
        list(listed_files(tmp_path / "in"))


def test_an_unreadable_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    scandir = os.scandir

    def closed(path: Path) -> object:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError, match=r"the folder .*a/? cannot be read: Permission denied; check its permissions"):
        list(listed_files(tmp_path))
