"""The result log: one line per image, written by several processes, resumed by any number of processes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from panformer_cli.errors import PanformerError
from panformer_cli.storage.result_log import ResultLog, line_text, stored_settings
from tests.helpers import files_of_at_most


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / ".parts"


def append(folder: Path, texts: dict[int, str], rank: int = 0) -> None:
    """Append lines like a process that then ends."""
    with closing(ResultLog(folder, rank)) as log:
        for index, text in texts.items():
            log.append(index, {"text": text})


def texts_of(log: ResultLog, total: int | None = None) -> list[tuple[int, str]]:
    return [(line["index"], line["text"]) for line in log.lines(total)]


def own(log: ResultLog) -> list[int]:
    return [line["index"] for line in log.own_lines()]


def test_lines_of_all_processes_are_in_image_order(folder: Path) -> None:
    append(folder, {index: f"Straße {index}\n" for index in (9, 3, 0, 6)})
    append(folder, {index: f"Straße {index}\n" for index in (2, 11, 5, 8)}, rank=2)
    expected = [(index, f"Straße {index}\n") for index in (0, 2, 3, 5, 6, 8, 9, 11)]
    assert texts_of(ResultLog(folder)) == expected
    assert texts_of(ResultLog(folder), total=9) == expected[:6]
    assert {path.name for path in folder.glob("*.jsonl")} == {"0.jsonl", "2.jsonl"}


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_finished_images_are_divided_among_any_number_of_processes(processes: int, folder: Path) -> None:
    for index in range(10):
        append(folder, {index: ""}, rank=index % 4)
    shares = [own(ResultLog(folder, rank, processes)) for rank in range(processes)]
    assert shares == [list(range(rank, 10, processes)) for rank in range(processes)]


def test_threads_append_complete_lines(folder: Path) -> None:
    log = ResultLog(folder)

    def append_share(first: int) -> None:
        for index in range(first, 400, 4):
            log.append(index, {"text": str(index) * 100})

    threads = [Thread(target=append_share, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert texts_of(log) == [(index, str(index) * 100) for index in range(400)]


def test_the_last_line_of_an_image_counts(folder: Path) -> None:
    append(folder, {4: "first"})
    append(folder, {4: "second", 2: "other"})
    assert texts_of(ResultLog(folder)) == [(2, "other"), (4, "second")]
    assert own(ResultLog(folder)) == [2, 4]


def test_lines_can_be_read_between_appending(folder: Path) -> None:
    log = ResultLog(folder)
    for index in range(3):
        log.append_text(line_text(index, {"text": "a"}))
        assert len(texts_of(log)) == index + 1
    log.close()


@pytest.mark.parametrize("kept", range(1, 35))
def test_a_truncated_line_is_ignored_and_leaves_the_others_intact(kept: int, folder: Path) -> None:
    append(folder, {0: "before"})
    whole = json.dumps({"index": 1, "text": "cut {short}"}).encode()
    assert len(whole) == 35
    with (folder / "0.jsonl").open("ab") as file:
        file.write(whole[:kept])
    assert own(ResultLog(folder)) == [0]
    append(folder, {2: "after"})
    assert texts_of(ResultLog(folder)) == [(0, "before"), (2, "after")]
    append(folder, {1: "again"})
    assert texts_of(ResultLog(folder)) == [(0, "before"), (1, "again"), (2, "after")]


def test_a_line_without_a_newline_is_complete(folder: Path) -> None:
    append(folder, {0: "a"})
    path = folder / "0.jsonl"
    path.write_bytes(path.read_bytes().rstrip())
    assert own(ResultLog(folder)) == [0]
    append(folder, {1: "b"})
    assert texts_of(ResultLog(folder)) == [(0, "a"), (1, "b")]


def test_a_line_takes_24_bytes_of_memory(folder: Path) -> None:
    append(folder, dict.fromkeys(range(3), 1000 * "x"))
    files, positions = ResultLog(folder)._find_lines()
    assert [path.name for path in files] == ["0.jsonl"]
    assert positions.tolist() == [(index, 0, index * (1000 + len('{"index": 0, "text": ""}\n'))) for index in range(3)]
    assert positions.nbytes == 3 * 24


@pytest.mark.parametrize("garbage", [bytes(50), b"\xff\xfe\x80", b"{}[]", b"[1, 2]\n", b"{}\n", b"\0\0\n"])
def test_garbage_in_the_file_is_ignored(garbage: bytes, folder: Path) -> None:
    append(folder, {0: "a"})
    with (folder / "0.jsonl").open("ab") as file:
        file.write(garbage)
    append(folder, {1: "b"})
    assert texts_of(ResultLog(folder)) == [(0, "a"), (1, "b")]


def test_without_resume_the_old_log_is_deleted(folder: Path) -> None:
    ResultLog.start(folder, {"a": 1}, resume=False)
    append(folder, {0: ""})
    ResultLog.start(folder, {"a": 1}, resume=False)
    assert [path.name for path in folder.iterdir()] == ["settings.json"]
    assert own(ResultLog(folder)) == []


def test_resume_keeps_a_log_with_the_same_settings(folder: Path) -> None:
    ResultLog.start(folder, {"a": [1, "x"], "b": None}, resume=True)
    append(folder, {0: ""})
    ResultLog.start(folder, {"b": None, "a": [1, "x"]}, resume=True)
    assert own(ResultLog(folder)) == [0]


@pytest.mark.parametrize(
    ("settings", "named"), [({"a": 2, "b": 3}, "a"), ({"a": 1}, "b"), ({"a": 1, "b": 3, "c": 0}, "c"), ({}, "a, b")]
)
def test_resume_rejects_different_settings(settings: dict[str, int], named: str, folder: Path) -> None:
    ResultLog.start(folder, {"a": 1, "b": 3}, resume=False)
    append(folder, {0: ""})
    with pytest.raises(PanformerError) as caught:
        ResultLog.start(folder, settings, resume=True)
    assert str(caught.value).startswith(f"{folder.parent} was started with a different {named} (see")
    assert own(ResultLog(folder)) == [0]


def test_lines_without_settings_are_discarded(folder: Path) -> None:
    append(folder, {0: ""})
    ResultLog.start(folder, {}, resume=True)
    assert own(ResultLog(folder)) == []


@pytest.mark.parametrize(("content", "expected"), [(None, None), ('{"a": 1}', {"a": 1}), ("{", {}), ("[1]", {})])
def test_settings_can_be_read_without_starting(content: str | None, expected: Any, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "settings.json").write_text(content)
    assert stored_settings(tmp_path) == expected


def test_remove_deletes_the_folder(folder: Path) -> None:
    log = ResultLog(folder)
    log.append(0, {})
    log.remove()
    assert not folder.exists()
    log.remove()


def test_a_disk_that_fills_up_within_a_line_is_reported(folder: Path) -> None:
    append(folder, {0: "a"})
    size = (folder / "0.jsonl").stat().st_size
    with files_of_at_most(size + 10), pytest.raises(PanformerError) as caught:
        append(folder, {1: "b"})
    assert str(caught.value) == (
        f"cannot write {folder / '0.jsonl'}: {os.strerror(errno.EFBIG)}; free some space and run the command again; "
        "finished images are kept"
    )
    assert (folder / "0.jsonl").stat().st_size == size + 10
    append(folder, {1: "c"})
    assert texts_of(ResultLog(folder)) == [(0, "a"), (1, "c")]


def test_a_folder_that_cannot_be_created_is_reported(folder: Path) -> None:
    folder.parent.write_text("a file")
    with pytest.raises(PanformerError, match="cannot write"):
        ResultLog.start(folder, {}, resume=False)
    with pytest.raises(PanformerError, match="cannot write"):
        append(folder, {0: "a"})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
@pytest.mark.parametrize("resume", [True, False])
def test_one_process_at_a_time(resume: bool, folder: Path) -> None:
    ResultLog.start(folder, {}, resume=False)
    code = "import sys; from tests.storage.test_result_log import hold; hold(sys.argv[1])"
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"open\n"
        with pytest.raises(PanformerError, match="another process is writing .*; wait for it to finish"):
            ResultLog.start(folder, {}, resume)
        with pytest.raises(PanformerError, match="another process is writing .*; wait for it to finish"):
            append(folder, {1: "ours"})
        other.communicate(b"close\n")
    assert texts_of(ResultLog(folder)) == [(0, "theirs")]
    ResultLog.start(folder, {}, resume)


def hold(folder: str) -> None:
    """Append, read, and hold the lock until a line arrives on stdin."""
    log = ResultLog(Path(folder))
    log.append(0, {"text": "theirs"})
    assert own(log) == [0]
    print("open", flush=True)
    sys.stdin.readline()
