"""Terminal output: progress bars in a terminal, lines in a file, tables."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from panformer_cli.console import Cell, RichReporter, print_error, print_table
from panformer_cli.log_file import LogFile
from panformer_cli.reporting import Reporter
from panformer_cli.verbosity import Verbosity


class Clock:
    """A clock that advances only when set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def lines_of(total: int, seconds_per_step: float, done: int = 0) -> list[str]:
    """Return the lines written to a file during `total` steps."""
    stream, clock = io.StringIO(), Clock()
    reporter: Reporter = RichReporter(stream, clock)
    with reporter.progress("train", total, done) as progress:
        for step in range(done, total):
            clock.now += seconds_per_step
            progress.advance(1, f"loss {step}")
    return stream.getvalue().splitlines()


def test_without_a_terminal_each_tenth_is_a_line() -> None:
    lines = lines_of(100, 2.0)
    assert [line.split(", ")[1] for line in lines] == [f"{count}/100" for count in range(10, 101, 10)]
    assert lines[0] == "train: 10 %, 10/100, 2.0 s each, 0:20 elapsed, 3:00 left, loss 9"
    assert lines[-1] == "train: 100 %, 100/100, 2.0 s each, 3:20 elapsed, loss 99"


def test_a_line_every_30_seconds_if_a_tenth_takes_longer() -> None:
    lines = lines_of(100, 15.0)
    assert [line.split(", ")[1] for line in lines[:3]] == ["2/100", "4/100", "6/100"]
    assert lines[0].endswith("0:30 elapsed, 24:30 left, loss 1")


def test_progress_within_a_second_is_one_line() -> None:
    assert lines_of(50, 0.01) == ["train: 100 %, 50/50, 100.0/s, 0:01 elapsed, loss 49"]


def test_steps_of_an_earlier_run_do_not_count_as_speed() -> None:
    first = lines_of(100, 3.0, done=60)[0]
    assert first == "train: 70 %, 70/100, 3.0 s each, 0:30 elapsed, 1:30 left, loss 69"


def test_a_line_fits_a_terminal_of_70_characters() -> None:
    stream, clock = io.StringIO(), Clock()
    with RichReporter(stream, clock).progress("Training", 20000) as progress:
        for status in (
            "loss 3.23",
            "loss 3.23, lr 0.000123",
            "a/folder/with/a/long/name/and_an_image_with_a_long_name.jpg",
        ):
            clock.now += 5000.0
            progress.advance(4000, status)
    short, without_speed, truncated = stream.getvalue().splitlines()
    assert short == "Training: 20 %, 4000/20000, 1.2 s each, 5:33:20 left, loss 3.23"
    assert without_speed == "Training: 40 %, 8000/20000, 4:10:00 left, loss 3.23, lr 0.000123"
    assert len(truncated) == 70
    assert truncated.endswith("...")


def test_a_finished_bar_stops_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(reporter: Reporter, clock: Clock) -> None:
        with reporter.progress("train", 2) as progress:
            for _ in range(2):
                clock.now += 30.0
                progress.advance(status="loss 1")
            clock.now += 600.0

    last = rows_of(bars(120, monkeypatch, work))[-1]
    assert "1:00 elapsed" in last
    assert "left" not in last


def test_hours() -> None:
    assert ", 3:20:00 elapsed," in lines_of(10, 1200.0)[-1]


def test_nothing_to_do() -> None:
    assert lines_of(0, 1.0) == []


def test_messages_are_complete_lines_without_markup_or_color() -> None:
    stream = io.StringIO()
    reporter = RichReporter(stream)
    reporter.message("wrote [red]a[/red] " + "x" * 300)
    reporter.warn("12 images [left out]")
    assert stream.getvalue().splitlines() == ["wrote [red]a[/red] " + "x" * 300, "Warning: 12 images [left out]"]


def bars(width: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[Reporter, Clock], None]) -> str:
    """Return what a terminal of `width` characters receives, including control codes."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "30")
    stream, clock = Terminal(), Clock()
    work(RichReporter(stream, clock), clock)
    return stream.getvalue()


def rows_of(text: str) -> list[str]:
    return [row for row in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)) if row.strip()]


def a_few_steps(reporter: Reporter, clock: Clock) -> None:
    with reporter.progress("training the model [a]", 200, 20) as progress:
        for _ in range(30):
            clock.now += 2.0
            progress.advance(3, "loss 1.234")


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 200])
def test_a_bar_is_one_row_at_any_width(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(bars(width, monkeypatch, a_few_steps))
    assert all(row.startswith("train") and len(row) <= width for row in rows)
    assert "55%" in rows[-1]
    assert "left" in rows[-1] or width < 40


def test_a_wide_bar_shows_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    last = rows_of(bars(120, monkeypatch, a_few_steps))[-1]
    for piece in ("training the model [a]", "━", "55%", "110/200", "1.5/s", "1:00 elapsed", "1:00 left", "loss 1.234"):
        assert piece in last


def test_a_bar_inside_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(reporter: Reporter, clock: Clock) -> None:
        with reporter.progress("train", 2) as outer:
            outer.advance()
            with reporter.progress("evaluate", 2) as inner:
                clock.now += 10
                inner.advance()
                reporter.message("halfway")
            outer.advance()
        with reporter.progress("again", 1) as last:
            last.advance()

    rows = rows_of(bars(80, monkeypatch, work))
    assert "halfway" in [row.strip() for row in rows]
    assert any(row.startswith("evaluate") for row in rows)
    assert any(row.startswith("train") and "100%" in row for row in rows)
    assert rows[-1].startswith("again")
    assert "100%" in rows[-1]


def test_an_error_inside_a_bar_propagates_and_the_reporter_keeps_working(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(reporter: Reporter, clock: Clock) -> None:
        del clock
        for _ in range(2):
            with pytest.raises(KeyError), reporter.progress("a", 2), reporter.progress("b", 2):
                raise KeyError

    text = bars(80, monkeypatch, work)
    assert text.count("\x1b[?25h") == 2, "the cursor is shown again"


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    text = bars(80, monkeypatch, a_few_steps)
    assert "\x1b" not in text
    assert "train" in text


ROWS: list[list[Cell]] = [["person", 49.64, 12], ["a [b] " + "c" * 150, None, 3]]


def test_a_table_in_a_file_is_as_wide_as_its_content(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("PQ [x]", ["class", "PQ", "count"], ROWS)
    out, err = capsys.readouterr()
    title, _, head, _, first, second = [line.rstrip() for line in out.splitlines()][:6]
    assert (title, err) == ("PQ [x]", "")
    assert head.split() == ["class", "PQ", "count"]
    assert first.split() == ["person", "49.6", "12"]
    assert second.split() == ["a", "[b]", "c" * 150, "–", "3"]
    assert "\x1b" not in out
    assert len(first) == len(second), "numbers are right-aligned"


def test_a_table_fits_its_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    print_table("PQ", ["class", "PQ", "count"], ROWS)
    rows = rows_of(terminal.getvalue())
    assert max(len(row.rstrip()) for row in rows) <= 60
    assert sum(row.count("c") for row in rows[2:]) == 150, "a long cell is folded, not cut"


def test_a_table_in_a_pipe_is_as_wide_as_columns_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    print_table("PQ", ["class", "PQ", "count"], ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 50
    assert sum(line.count("c") for line in lines[3:]) == 150, "a long cell is folded, not cut"
    monkeypatch.setenv("COLUMNS", "0")
    print_table("PQ", ["class", "PQ", "count"], ROWS)
    assert "c" * 150 in capsys.readouterr().out


@pytest.mark.parametrize(("columns", "longest"), [("40", 40), ("200", 70), ("", 70), ("x", 70)])
def test_lines_of_progress_are_as_wide_as_columns_asks(
    columns: str, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    stream, clock = io.StringIO(), Clock()
    with RichReporter(stream, clock).progress("a task with a long name", 1000) as progress:
        for _ in range(10):
            clock.now += 100
            progress.advance(100, "a long status")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert longest - 20 <= max(map(len, lines)) <= longest


@pytest.mark.parametrize(("no_color", "colored"), [(None, True), ("1", False)])
def test_no_color_is_obeyed(no_color: str | None, colored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    terminal = Terminal()
    RichReporter(terminal).warn("careful")
    assert ("\x1b[33m" in terminal.getvalue()) == colored
    assert "Warning: " in terminal.getvalue()


def test_a_quiet_reporter_prints_warnings_only(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    reporter = RichReporter(terminal, verbosity=Verbosity(quiet=True))
    with reporter.progress("work", 2) as progress:
        progress.advance()
        reporter.message("halfway")
        reporter.warn("careful")
    assert rows_of(terminal.getvalue()) == ["Warning: careful"]


def test_the_log_gets_lines_of_progress_beside_a_bar(tmp_path: Path) -> None:
    terminal, clock = Terminal(), Clock()
    reporter = RichReporter(terminal, clock, Verbosity(log=LogFile(tmp_path / "log.txt")))
    with reporter.progress("work", 2) as progress:
        for _ in range(2):
            clock.now += 10
            progress.advance()
    text = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "work: 50 %, 1/2" in text
    assert "work: 100 %, 2/2" in text
    assert "\x1b" in terminal.getvalue()
    assert "\x1b" not in text


def test_a_table_without_rows(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("PQ", ["class", "PQ"], [])
    assert capsys.readouterr().out.split()[:3] == ["PQ", "class", "PQ"]


def test_errors_go_to_stderr_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("cannot read [a/b]: " + "x" * 200)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "Error: cannot read [a/b]: " + "x" * 200 + "\n")


def test_what_changes_a_terminal_is_escaped() -> None:
    """Names of files can have any characters."""
    stream = io.StringIO()
    reporter = RichReporter(stream, Clock())
    reporter.message("a\x1b]0;title.jpg")
    reporter.warn("b\x1b[2J.jpg")
    with reporter.progress("Predicting", 1) as progress:
        progress.advance(status="c\n\x1b[1A.jpg")
    assert stream.getvalue().splitlines() == [
        "a\\x1b]0;title.jpg",
        "Warning: b\\x1b[2J.jpg",
        "Predicting: 100 %, 1/1, 0:00 elapsed, c\\n\\x1b[1A.jpg",
    ]


def test_verbose_counts_the_steps_that_were_made(caplog: pytest.LogCaptureFixture) -> None:
    """A video that Ctrl-C stops has fewer frames than the progress expected."""
    caplog.set_level("DEBUG", "panformer_cli.console")
    with RichReporter(io.StringIO(), Clock()).progress("Predicting", 100, done=10) as progress:
        progress.advance(3)
    assert "Predicting: 3 of 100, 0.00 s" in caplog.text
