"""Files of a source, found without a list of all of them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from panformer_cli.errors import DataError
from panformer_cli.prepare.source import SourceImage, listed_files, with_unused_labels

NAMES = (
    "b.jpg", "a/2.JPG", "a/10.png", "a.jpg", "a-1.jpg", "a/c/1.jpg", "a/.hidden.jpg", ".cache/1.jpg", "a/notes.txt",
    "Z.jpg", "é/ü.jpg", "a b/1.jpg", "a/c.jpg", "empty.jpg/readme",
)  # fmt: skip


def test_files_come_in_the_order_of_their_parts(tmp_path: Path) -> None:
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    wanted = [
        path
        for path in sorted(tmp_path.rglob("*"))
        if path.suffix.lower() in (".jpg", ".png")
        and not any(part.startswith(".") for part in path.relative_to(tmp_path).parts)
    ]
    assert list(listed_files(tmp_path)) == wanted and len(wanted) == 11


def test_a_linked_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.jpg").touch()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "other")
    with pytest.raises(DataError, match=r"in/linked is a link to a folder, which is not followed"):
        list(listed_files(tmp_path / "in"))
    assert [path.name for path in listed_files(tmp_path / "other")] == ["a.jpg"]


def test_labels_that_no_image_has_are_told(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    bare = SourceImage(1, tmp_path / "a.jpg", "a.jpg")  # of masks, say, and without an object
    for image, problems in ((bare, paths), (replace(bare, labels=(paths[1],)), [paths[0], paths[2]])):
        first, *bad = with_unused_labels([image], paths, tmp_path / "images")
        assert first is image and [one.picture for one in bad] == problems
        assert all(f"{one.picture} has no picture in {tmp_path}/images; expected" in one.problem for one in bad)
        assert len({(one.id, one.file_name) for one in bad}) == len(bad)
    assert list(with_unused_labels([], paths, tmp_path)) == []


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "a.jpg").touch()
    (tmp_path / "in" / "b.jpg").symlink_to(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="points outside"):
        list(listed_files(tmp_path / "in"))


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    scandir = os.scandir

    def closed(path: Path) -> object:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError, match=r"the folder .*a/? cannot be read: Permission denied; check its rights"):
        list(listed_files(tmp_path))
