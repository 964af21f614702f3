"""The log file of a command: whole lines without control characters, from any number of processes."""

from __future__ import annotations

import io
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from panformer_cli.errors import PanformerError
from panformer_cli.log_file import LogFile, LoggedStream, plain
from tests.conftest import REPOSITORY

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d (\d+) (\w+) +(.*)")


def lines_of(path: Path) -> list[tuple[str, str]]:
    """Return level and text of each line."""
    matches = [LINE.fullmatch(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert all(matches)
    return [(match[2], match[3]) for match in matches if match]


def test_every_line_has_time_process_and_level(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "new" / "log.txt")
    log.write("INFO", "first")
    log.write("ERROR", "two\nlines\n")
    log.close()
    log.write("INFO", "too late")
    LogFile(log.path).write("INFO", "a second command appends")
    assert lines_of(log.path) == [
        ("INFO", "first"),
        ("ERROR", "two"),
        ("ERROR", "lines"),
        ("INFO", "a second command appends"),
    ]
    assert LINE.match(log.path.read_text())[1] == str(os.getpid())  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2K\x1b[1Aup", "up"),
        ("10 %\r20 %", "10 %\\r20 %"),
        ("bell\x07 \x9b31m", "bell\\x07 \\x9b31m"),
        ("naïve ─ 日本 \t tab", "naïve ─ 日本 \t tab"),
        ("a\u2028b\x7f", "a\\u2028b\\x7f"),
    ],
)
def test_no_control_character_is_left(text: str, expected: str) -> None:
    assert plain(text) == expected


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log.txt")
    log.write("INFO", "file \udcff")
    assert lines_of(log.path) == [("INFO", "file \\udcff")]


def test_several_processes_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    code = (
        "import sys\nfrom pathlib import Path\nfrom panformer_cli.log_file import LogFile\n"
        f"log = LogFile(Path({str(path)!r}))\nfor number in range(300): log.write('INFO', sys.argv[1] * 2000)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, letter], cwd=REPOSITORY) for letter in "abc"]
    assert [process.wait() for process in processes] == [0, 0, 0]
    texts = [text for _, text in lines_of(path)]
    assert sorted(texts) == sorted(letter * 2000 for letter in "abc" for _ in range(300))


def test_a_copy_in_another_process_appends_to_the_same_file(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log.txt")
    pickle.loads(pickle.dumps(log)).write("INFO", "from a worker")
    assert lines_of(log.path) == [("INFO", "from a worker")]


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PanformerError, match=r"--log-file .*file/log\.txt cannot be written: "):
        LogFile(tmp_path / "file" / "log.txt")


def test_a_full_disk_ends_the_log_and_not_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = LogFile(tmp_path / "log.txt")

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    log.write("INFO", "a")
    log.write("INFO", "b")
    assert capsys.readouterr().err == f"Warning: the log file {log.path} ends here: No space left on device\n"


def test_a_logged_stream_logs_complete_lines(tmp_path: Path) -> None:
    log, stream = LogFile(tmp_path / "log.txt"), io.StringIO()
    logged = LoggedStream(stream, log)
    for text in ("PQ ", "49.6\nSQ", " 80\n", "no line break"):
        assert logged.write(text) == len(text)
    assert [text for _, text in lines_of(log.path)] == ["PQ 49.6", "SQ 80"]
    logged.finish()
    assert lines_of(log.path)[-1] == ("RESULT", "no line break")
    assert stream.getvalue() == "PQ 49.6\nSQ 80\nno line break"
    assert logged.isatty() is False
