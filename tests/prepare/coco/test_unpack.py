"""Unpacking zips: COCO's layouts are supported, and unsafe archives are rejected."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from panformer_cli.errors import DataError, PanformerError
from panformer_cli.prepare.coco.unpack import names_in, unpack_files, unpack_folder
from panformer_cli.reporting import SilentReporter

CONTENT = bytes(range(256)) * 64
"""The 16 KB content of each entry."""


def make_zip(path: Path, *names: str, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, CONTENT)
    return path


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def refusal(archive: Path, target: Path) -> str:
    """Return the error for `archive`; no file may remain in its folder or above."""
    above = everything_in(archive.parent.parent)
    with pytest.raises(PanformerError) as raised:
        unpack_folder(archive, target, SilentReporter())
    assert everything_in(archive.parent.parent) == above
    text = str(raised.value)
    assert str(archive) in text and "\n" not in text
    return text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inner").mkdir()
    return tmp_path / "inner"


@pytest.mark.parametrize("inside", ["val2017/", "", "a/b/val2017/"])
def test_the_folder_is_found_anywhere_in_the_zip(folder: Path, inside: str) -> None:
    archive = make_zip(folder / "val2017.zip", f"{inside}1.png", f"{inside}2.png", "__MACOSX/val2017/._1.png")
    unpack_folder(archive, folder / "val2017", SilentReporter())
    assert everything_in(folder) == ["val2017", "val2017.zip", "val2017/1.png", "val2017/2.png"]
    assert (folder / "val2017" / "2.png").read_bytes() == CONTENT


def test_a_folder_with_another_name_is_rejected(folder: Path) -> None:
    archive = make_zip(folder / "val2017.zip", "train2017/1.png")
    assert "has no files in a folder val2017" in refusal(archive, folder / "val2017")


def test_selected_files(folder: Path) -> None:
    archive = make_zip(folder / "all.zip", "annotations/a.json", "annotations/b.json", "annotations/a.zip")
    assert sorted(names_in(archive)) == ["a.json", "a.zip", "b.json"]
    written = unpack_files(archive, ["a.json", "a.zip", "c.json"], folder, SilentReporter())
    assert sorted(path.name for path in written) == ["a.json", "a.zip"]
    assert everything_in(folder) == ["a.json", "a.zip", "all.zip"]


@pytest.mark.parametrize("name", ["../x", "val2017/../../x", "/x", "C:/x", "C:x", "..\\x", "\\\\host\\share\\x"])
def test_entries_outside_of_the_folder(folder: Path, name: str) -> None:
    archive = make_zip(folder / "val2017.zip", "val2017/1.png", name)
    assert "points outside" in refusal(archive, folder / "val2017")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices(folder: Path, kind: int) -> None:
    link = zipfile.ZipInfo("val2017/link")
    link.create_system, link.external_attr = 3, (kind | 0o777) << 16
    with zipfile.ZipFile(folder / "val2017.zip", "w") as archive:
        archive.writestr("val2017/1.png", CONTENT)
        archive.writestr(link, "/etc")
    assert "is a link or a device" in refusal(folder / "val2017.zip", folder / "val2017")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated(folder: Path, share: float) -> None:
    archive = make_zip(folder / "val2017.zip", "val2017/1.png", "val2017/2.png")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(len(whole) * share)])
    assert "is corrupt or not a zip" in refusal(archive, folder / "val2017")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_byte(folder: Path, method: int) -> None:
    archive = make_zip(folder / "val2017.zip", "val2017/1.png", "val2017/2.png", method=method)
    with zipfile.ZipFile(archive) as opened:
        offset = opened.infolist()[1].header_offset + 150
    content = bytearray(archive.read_bytes())
    content[offset] ^= 0xFF
    archive.write_bytes(content)
    assert "is corrupt or not a zip" in refusal(archive, folder / "val2017")


def test_encrypted(folder: Path) -> None:
    archive = make_zip(folder / "val2017.zip", "val2017/1.png")
    content = bytearray(archive.read_bytes())
    content[6] |= 1  # general purpose flags of the local header ...
    content[content.index(b"PK\x01\x02") + 8] |= 1  # ... and of the central directory
    archive.write_bytes(content)
    assert "encrypted" in refusal(archive, folder / "val2017")


def test_a_method_that_only_some_python_versions_support(folder: Path) -> None:
    archive = make_zip(folder / "val2017.zip", "val2017/1.png")
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 10] = 93  # Zstandard
    archive.write_bytes(content)
    assert "'val2017/1.png' uses the unsupported compression method 93" in refusal(archive, folder / "val2017")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_repeated_name(folder: Path) -> None:
    archive = make_zip(folder / "val2017.zip", "val2017/1.png", "val2017/1.png")
    assert "more than once" in refusal(archive, folder / "val2017")


def test_a_file_that_is_also_a_folder(folder: Path) -> None:
    assert "cannot unpack" in refusal(make_zip(folder / "val2017.zip", "val2017", "val2017/1.png"), folder / "val2017")


def test_missing(folder: Path) -> None:
    with pytest.raises(DataError, match="cannot read .*nothing.zip"):
        names_in(folder / "nothing.zip")


def test_disk_space(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    archive = make_zip(folder / "val2017.zip", "val2017/1.png")
    needed = len(CONTENT) + 64 * 2**20
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, needed - 1))
    assert "GB free" in refusal(archive, folder / "val2017")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, needed))
    unpack_folder(archive, folder / "val2017", SilentReporter())


def test_disk_full_while_unpacking(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    archive = make_zip(folder / "val2017.zip", "val2017/1.png")
    assert "No space left on device" in refusal(archive, folder / "val2017")
