"""Lines kept image by image: what is left of them after an interruption."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from panformer_cli.errors import PanformerError
from panformer_cli.prepare.parts import ImageParts

SETTING = {"source": "x", "overlap": "last"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / ".val.parts"


def kept(path: Path, total: int = 5, setting: dict[str, Any] = SETTING) -> dict[int, Any]:
    """The value of each image that a new object finds."""
    with ImageParts(path, total, setting) as parts:
        return {index: parts[index]["value"] for index in range(total) if index in parts}


def write(path: Path, values: dict[int, Any], total: int = 5) -> None:
    with ImageParts(path, total, SETTING) as parts:
        for index, value in values.items():
            parts.add(index, {"value": value})


def test_lines_come_back_in_the_order_of_the_images(path: Path) -> None:
    with ImageParts(path, 5, SETTING) as parts:
        for index in (3, 0, 4):
            parts.add(index, {"value": f"Straße {index}\n"})
            assert parts[index]["value"] == f"Straße {index}\n"  # reading does not move the place of writing
        assert [line["value"] for line in parts] == [f"Straße {index}\n" for index in (0, 3, 4)]
        assert [index in parts for index in range(5)] == [True, False, False, True, True]
        with pytest.raises(KeyError):
            parts[1]


def test_another_object_goes_on(path: Path) -> None:
    write(path, {0: "a", 2: "b"})
    write(path, {1: "c"})
    assert kept(path) == {0: "a", 1: "c", 2: "b"}


def test_an_end_without_closing_loses_nothing(path: Path) -> None:
    parts = ImageParts(path, 5, SETTING)
    parts.add(1, {"value": "a"})
    assert kept(path) == {1: "a"}
    parts.__exit__(None, None, None)


@pytest.mark.parametrize("cut", [1, 2, 9])
def test_a_torn_line_is_not_there_and_is_written_anew(path: Path, cut: int) -> None:
    write(path, {0: "a", 1: "b"})
    path.write_bytes(path.read_bytes()[:-cut])
    write(path, {2: "c"})
    assert kept(path) == {0: "a", 2: "c"}
    assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize("rubbish", [b"\0\0\0\0\n", b"[1, 2]\n", b"{\n"])
def test_after_a_line_that_is_none_nothing_counts(path: Path, rubbish: bytes) -> None:
    write(path, {0: "a"})
    good = path.read_bytes()
    path.write_bytes(good + rubbish + b'{"index": 1, "value": "b"}\n')
    assert kept(path) == {0: "a"} and path.read_bytes() == good


def test_a_torn_first_line_starts_anew(path: Path) -> None:
    write(path, {0: "a"})
    path.write_bytes(path.read_bytes()[:10])
    assert kept(path) == {}
    write(path, {1: "b"})
    assert kept(path) == {1: "b"}


def test_another_setting_starts_anew(path: Path) -> None:
    write(path, {0: "a"})
    assert kept(path, setting={**SETTING, "overlap": "first"}) == {}
    assert kept(path) == {}


def test_the_last_line_of_an_image_counts(path: Path) -> None:
    with ImageParts(path, 5, SETTING) as parts:
        parts.add(1, {"value": "old"})
        parts.forget(1)
        assert 1 not in parts and list(parts) == []
        parts.add(1, {"value": "new"})
        assert [line["value"] for line in parts] == ["new"]
    assert kept(path) == {1: "new"}


def test_removing_leaves_nothing(path: Path) -> None:
    with ImageParts(path, 5, SETTING) as parts:
        parts.add(0, {"value": "a"})
        parts.remove()
    assert list(path.parent.iterdir()) == []


def test_a_full_disk_is_one_sentence_and_keeps_what_was_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: ImageParts, line: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    write(path, {0: "a"})
    with ImageParts(path, 5, SETTING) as parts:
        with monkeypatch.context() as patch:
            patch.setattr(ImageParts, "_append", full)
            with pytest.raises(PanformerError, match=r"cannot write .*parts: No space left on device; .* goes on"):
                parts.add(1, {"value": "b"})
        assert 1 not in parts
    assert kept(path) == {0: "a"}


def test_a_folder_that_cannot_be_made_is_one_sentence(path: Path) -> None:
    path.parent.write_text("a file")
    with pytest.raises(PanformerError, match="cannot write"):
        ImageParts(path, 5, SETTING)


def test_fewer_images_than_before(path: Path) -> None:
    write(path, {0: "a", 4: "b"})
    assert kept(path, total=3) == {0: "a"}


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_one_process_at_a_time(path: Path) -> None:
    code = "import sys; from tests.prepare.test_parts import hold; hold(sys.argv[1])"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"open\n"
        with pytest.raises(PanformerError, match="another process is writing .*; wait for its end"):
            ImageParts(path, 5, SETTING)
        other.communicate(b"close\n")
    assert kept(path) == {0: "theirs"}


def hold(path: str) -> None:
    """Keep the file open until a line comes."""
    with ImageParts(Path(path), 5, SETTING) as parts:
        parts.add(0, {"value": "theirs"})
        print("open", flush=True)
        sys.stdin.readline()
