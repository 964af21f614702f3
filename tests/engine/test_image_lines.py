"""Lines of images that several processes write and any number of processes goes on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.image_lines import ImageLines
from panformer_cli.errors import PanformerError


def lines_of(folder: Path, rank: int = 0, world_size: int = 1) -> ImageLines:
    return ImageLines(folder, Process(rank, world_size, torch.device("cpu")))


def done(lines: ImageLines) -> list[int]:
    return sorted(line["index"] for line in lines.done())


def in_order(lines: ImageLines) -> list[tuple[int, str]]:
    return [(line["index"], line["text"]) for line in lines.in_order()]


def test_lines_of_all_processes_come_in_the_order_of_images(tmp_path: Path) -> None:
    for index in (9, 3, 0, 6):
        lines_of(tmp_path, 0, 3).append(index, {"text": f"line {index}"})
    for index in (2, 11, 5, 8):
        lines_of(tmp_path, 2, 3).append(index, {"text": f"line {index}"})
    expected = [(index, f"line {index}") for index in (0, 2, 3, 5, 6, 8, 9, 11)]
    assert in_order(lines_of(tmp_path)) == expected
    assert {path.name for path in tmp_path.iterdir()} == {"0.jsonl", "2.jsonl"}


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_any_number_of_processes_shares_what_is_done(processes: int, tmp_path: Path) -> None:
    for index in range(10):
        lines_of(tmp_path, index % 4, 4).append(index, {})
    shares = [done(lines_of(tmp_path, rank, processes)) for rank in range(processes)]
    assert shares == [list(range(rank, 10, processes)) for rank in range(processes)]


def test_the_last_line_of_an_image_counts(tmp_path: Path) -> None:
    lines = lines_of(tmp_path)
    for text in ("first", "second"):
        lines.append(4, {"text": text})
    lines.append(2, {"text": "other"})
    assert in_order(lines) == [(2, "other"), (4, "second")]
    assert [line["text"] for line in lines.done()] == ["other", "second"]


@pytest.mark.parametrize("kept", range(1, 32))
def test_a_line_cut_anywhere_is_no_line_and_spoils_no_other(kept: int, tmp_path: Path) -> None:
    lines = lines_of(tmp_path)
    lines.append(0, {"text": "before"})
    whole = json.dumps({"index": 1, "text": "cut short"}).encode()
    assert len(whole) == 33
    with (tmp_path / "0.jsonl").open("ab") as file:
        file.write(whole[:kept])
    assert done(lines) == [0]
    lines.append(2, {"text": "after"})
    assert in_order(lines) == [(0, "before"), (2, "after")]
    lines.append(1, {"text": "again"})
    assert in_order(lines) == [(0, "before"), (1, "again"), (2, "after")]


def test_a_line_without_its_newline_is_whole(tmp_path: Path) -> None:
    lines = lines_of(tmp_path)
    lines.append(0, {"text": "a"})
    path = tmp_path / "0.jsonl"
    path.write_bytes(path.read_bytes().rstrip())
    assert done(lines) == [0]
    lines.append(1, {"text": "b"})
    assert in_order(lines) == [(0, "a"), (1, "b")]


@pytest.mark.parametrize("rubbish", [bytes(50), b"\xff\xfe\x80", b"{}[]"])
def test_what_a_broken_disk_leaves_is_no_line(rubbish: bytes, tmp_path: Path) -> None:
    lines = lines_of(tmp_path)
    lines.append(0, {"text": "a"})
    with (tmp_path / "0.jsonl").open("ab") as file:
        file.write(rubbish)
    lines.append(1, {"text": "b"})
    assert in_order(lines) == [(0, "a"), (1, "b")]


def test_without_resume_what_was_there_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    ImageLines.begin(folder, {"a": 1}, resume=False)
    lines_of(folder).append(0, {})
    ImageLines.begin(folder, {"a": 1}, resume=False)
    assert [path.name for path in folder.iterdir()] == ["settings.json"]
    assert done(lines_of(folder)) == []


def test_resume_keeps_what_has_the_same_settings(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    ImageLines.begin(folder, {"a": [1, "x"], "b": None}, resume=True)
    lines_of(folder).append(0, {})
    ImageLines.begin(folder, {"b": None, "a": [1, "x"]}, resume=True)
    assert done(lines_of(folder)) == [0]


@pytest.mark.parametrize(
    ("settings", "named"), [({"a": 2, "b": 3}, "a"), ({"a": 1}, "b"), ({"a": 1, "b": 3, "c": 0}, "c"), ({}, "a, b")]
)
def test_resume_refuses_other_settings(settings: dict[str, int], named: str, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    ImageLines.begin(folder, {"a": 1, "b": 3}, resume=False)
    lines_of(folder).append(0, {})
    with pytest.raises(PanformerError) as caught:
        ImageLines.begin(folder, settings, resume=True)
    assert str(caught.value).startswith(f"{tmp_path} was begun with another {named}; --resume")
    assert done(lines_of(folder)) == [0]


def test_lines_without_settings_are_of_unknown_origin(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    lines_of(folder).append(0, {})
    ImageLines.begin(folder, {}, resume=True)
    assert done(lines_of(folder)) == []


def test_only_places_are_held(tmp_path: Path) -> None:
    lines = lines_of(tmp_path)
    for index in range(3):
        lines.append(index, {"text": 1000 * "x"})
    files, places = lines._places()
    assert [path.name for path in files] == ["0.jsonl"]
    assert places.tolist() == [(index, 0, index * (1000 + len('{"index": 0, "text": ""}\n'))) for index in range(3)]
    assert places.nbytes == 3 * 24


def test_removed(tmp_path: Path) -> None:
    lines = lines_of(tmp_path / "parts")
    lines.append(0, {})
    lines.remove()
    assert not (tmp_path / "parts").exists()
    lines.remove()


class OneOfTwo(Process):
    """The first of two processes; the other one wrote lines too."""

    def gather(self, value: Any) -> list[Any]:
        return [value, "1.jsonl"]


def test_lines_on_a_machine_with_a_folder_of_its_own_are_missed(tmp_path: Path) -> None:
    lines = ImageLines(tmp_path, OneOfTwo(0, 2, torch.device("cpu")))
    lines.append(0, {})
    with pytest.raises(PanformerError, match=r"does not see 1\.jsonl.*expected a folder that all machines share"):
        lines.wait()
    lines_of(tmp_path, 1, 2).append(1, {})
    lines.wait()
