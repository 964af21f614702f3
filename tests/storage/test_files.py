"""File names from files, symbolic links and checksums."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from panformer_cli.errors import DataError, PanformerError, WriteError
from panformer_cli.storage.files import (
    atomic_folder,
    missing,
    name_inside,
    resolve_links,
    sha256_of,
    write_text,
    writing,
)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "./", "..", ".. ", "...", "a/..", "a/../../b", "a\\..\\b"),
        *("/a", "//a", "//", "///a", "\\a", "\\\\server\\share\\a", "C:a", "C:\\a", "a/C:b", "a/C:/b", "a\0b"),
        *("out", "out/a", "real/out/a", "loop", "loop/a", "two", "two/a", "through"),
    ],
)
def test_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    (folder / "real").mkdir(parents=True)
    for link in ("out", "real/out"):
        (folder / link).symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    (folder / "two").symlink_to("real/two")
    (folder / "real" / "two").symlink_to("../two")
    (folder / "through").symlink_to("loop/../real")
    with pytest.raises(DataError, match="points outside"):
        name_inside(folder, name, "x.json")


@pytest.mark.parametrize(
    ("there", "asked", "problem"),
    [
        ("a.jpg", "a.JPG", "but there is a.jpg, whose name differs in upper and lower case"),
        ("A.PNG", "a.png", "but there is A.PNG, whose name differs in upper and lower case"),
        ("u\u0308.jpg", "\u00fc.jpg", "but there is u\u0308.jpg, whose name differs only in its Unicode form"),
        ("\u00fc.jpg", "u\u0308.jpg", "but there is \u00fc.jpg, whose name differs only in its Unicode form"),
        ("b.jpg", "a.jpg", "is missing; check the path, or restore the file"),
        ("a.jpg", "none/a.jpg", "is missing; check the path, or restore the file"),
        ("a.jpg", f"{'x' * 300}.jpg", "is missing; check the path, or restore the file"),
    ],
)
def test_a_missing_file_is_reported_with_one_whose_name_looks_the_same(
    there: str, asked: str, problem: str, tmp_path: Path
) -> None:
    (tmp_path / there).touch()
    assert problem in str(missing(tmp_path / asked, "image"))


def test_a_lone_surrogate_is_not_a_file_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x.json: '\\ud800.jpg' is not a valid file name"):
        name_inside(tmp_path, "\ud800.jpg", "x.json")
    foreign = os.fsdecode(b"caf\xe9.jpg")
    assert name_inside(tmp_path, foreign, "x.json") == tmp_path / foreign


@pytest.mark.parametrize(
    "name", ["a.jpg", "a..b", ".hidden", "real/a.jpg", "real\\a.jpg", "./a", "a//b", "link/a", "12:30.jpg"]
)
def test_names_that_stay_inside(tmp_path: Path, name: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    expected = tmp_path.joinpath(*name.replace("\\", "/").split("/"))
    assert name_inside(tmp_path, name, "x.json") == expected


@pytest.mark.parametrize("size", [0, 5, 2**20, 2**20 + 1])
def test_the_sha256_of_a_file(size: int, tmp_path: Path) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_links_are_resolved_up_to_the_first_missing_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nowhere")
    home = Path(os.path.realpath(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert resolve_links(Path("link/new/a.json")) == home / "real" / "new" / "a.json"
    assert resolve_links(tmp_path / "dangling" / "a") == home / "nowhere" / "a"
    assert resolve_links(tmp_path / "link" / ".." / "a") == home / "a"
    assert resolve_links(Path("n" * 300)) == home / ("n" * 300)


@pytest.mark.parametrize("name", ["loop", "loop/a", "link/loop"])
def test_a_loop_of_links_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(PanformerError, match=f"{name}: the symbolic links in this path form a loop; expected links"):
        resolve_links(tmp_path / name)


def test_text_keeps_its_line_ends_and_characters(tmp_path: Path) -> None:
    write_text(tmp_path / "new/a.txt", "é\r\n日\n")
    assert (tmp_path / "new/a.txt").read_bytes() == "é\r\n日\n".encode()


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_appears_as_a_whole(tmp_path: Path, is_there: bool) -> None:
    target = tmp_path / "inner/out"
    if is_there:
        target.mkdir(parents=True)
    with atomic_folder(target) as folder:
        (folder / "a.txt").write_text("a")
        assert not (target / "a.txt").exists()
    assert (target / "a.txt").read_text() == "a"
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_a_folder_that_cannot_be_finished_is_deleted(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as folder:
        (folder / "a.txt").write_text("a")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_folders_of_killed_processes_are_deleted_but_not_those_in_use(tmp_path: Path) -> None:
    kept = [".out.notes.tmp", ".out.2.5.tmp", "out.5.tmp", ".other.5.tmp", ".out.5-0123abcd.tmp.x"]
    for name in (".out.999.tmp", ".out.999-0123abcd.tmp", *kept):
        (tmp_path / name / "images").mkdir(parents=True)
    (tmp_path / ".out.5.tmp").write_text("a file")
    with atomic_folder(tmp_path / "out") as first:
        assert {path.name for path in tmp_path.iterdir()} == {*kept, ".out.5.tmp", first.name}
        with atomic_folder(tmp_path / "out") as second:  # another process would see the same locks
            assert first.is_dir() and second.is_dir() and first != second
        (tmp_path / "out").rmdir()
        assert first.is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {*kept, ".out.5.tmp", "out"}


def test_a_folder_with_files_and_a_file_are_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, tmp_path / "a.txt", Path(), Path("..")):
        with pytest.raises(DataError, match="already exists; expected a new or empty folder"), atomic_folder(path):
            pass
    assert (tmp_path / "a.txt").read_text() == "a"


def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(PanformerError, match="cannot write .*out: "), atomic_folder(tmp_path / "a.txt/out"):
        pass


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space or choose another folder"),
        (errno.EACCES, "check its permissions or choose another folder"),
        (errno.ENOENT, "choose another folder"),  # below /proc
    ],
)
def test_the_advice_is_for_the_error(number: int, advice: str) -> None:
    with pytest.raises(WriteError, match=f"^cannot write x: [^;]*; {advice}$"), writing(Path("x")):
        raise OSError(number, "reason")
