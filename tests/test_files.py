"""Names out of files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from panformer_cli.errors import DataError
from panformer_cli.files import name_inside, sha256_of


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "./", "..", ".. ", "...", "a/..", "a/../../b", "a\\..\\b"),
        *("/a", "//a", "//", "///a", "\\a", "\\\\server\\share\\a", "C:a", "C:\\a", "a/C:b", "a/C:/b", "a\0b"),
        *("out", "out/a", "real/out/a", "circle", "circle/a"),
    ],
)
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    (folder / "real").mkdir(parents=True)
    for link in ("out", "real/out"):
        (folder / link).symlink_to(tmp_path)
    (folder / "circle").symlink_to("circle")
    with pytest.raises(DataError, match="points outside"):
        name_inside(folder, name, "x.json")


def test_half_a_character_is_no_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x.json: no file can have the name '\\ud800.jpg'"):
        name_inside(tmp_path, "\ud800.jpg", "x.json")
    foreign = os.fsdecode(b"caf\xe9.jpg")
    assert name_inside(tmp_path, foreign, "x.json") == tmp_path / foreign


@pytest.mark.parametrize(
    "name", ["a.jpg", "a..b", ".hidden", "real/a.jpg", "real\\a.jpg", "./a", "a//b", "link/a", "12:30.jpg"]
)
def test_names_that_stay(tmp_path: Path, name: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    expected = tmp_path.joinpath(*name.replace("\\", "/").split("/"))
    assert name_inside(tmp_path, name, "x.json") == expected


@pytest.mark.parametrize("size", [0, 5, 2**20, 2**20 + 1])
def test_the_sha256_of_a_file(size: int, tmp_path: Path) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()
