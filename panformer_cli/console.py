"""Terminal output: progress and messages on stderr, tables on stdout. The only module that uses rich."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TextIO

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column, Table
from rich.text import Text

from panformer_cli.reporting import Progress, SilentReporter
from panformer_cli.verbosity import Verbosity, current
from panformer_cli.wording import shown, truncated, without_controls

_LOG = logging.getLogger(__name__)

Cell = str | int | float | None

DASH = "–"
"""Shown for a value that does not exist."""

_QUIET_SECONDS = 1.0
_LINE_SECONDS = 30.0
_LINE_WIDTH = 70
_UNLIMITED_WIDTH = 100_000


class RichReporter:
    """A `reporting.Reporter` for people: progress bars in a terminal, occasional lines if stderr is a file.

    Args:
        stream: where to write; stderr by default.
        clock: returns monotonic seconds.
        verbosity: how much to print; that of this process by default.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        verbosity: Verbosity | None = None,
    ) -> None:
        self._console = Console(file=stream or sys.stderr)
        self._clock = clock
        self._verbosity = verbosity or current()
        self._bars: Bars | None = None

    def __reduce__(self) -> tuple[Callable[[Verbosity], RichReporter], tuple[Verbosity]]:
        """Unpickle as a reporter to the stderr of the receiving process."""
        return _reporter_with, (self._verbosity,)

    def message(self, text: str) -> None:
        """Print one line, unless the command is quiet."""
        self._verbosity.record("INFO", text)
        self._print(text)

    def warn(self, text: str) -> None:
        """Print a warning of one line."""
        self._verbosity.record("WARNING", text)
        _write(self._console, Text.assemble(("Warning: ", "yellow"), text))

    @contextmanager
    def progress(self, what: str, total: int, done: int = 0) -> Iterator[Progress]:
        """Show a bar with the time left. A bar inside another one appears below it and is removed at its end."""
        began, steps = self._clock(), _Count()
        with self._shown(what, total, done) as visible:
            several: list[Progress] = [visible, steps]
            if self._verbosity.log is not None:
                record = partial(self._verbosity.record, "INFO")
                several.append(_LineProgress(record, self._clock, what, total, done))
            yield _SeveralProgress(several)
        _LOG.debug("%s: %d of %d, %.2f s", what, steps.total, total, self._clock() - began)

    @contextmanager
    def _shown(self, what: str, total: int, done: int) -> Iterator[Progress]:
        """Show the progress on the console."""
        if self._verbosity.quiet:
            with SilentReporter().progress(what, total, done) as silent:
                yield silent
        elif not self._console.is_terminal or self._console.is_dumb_terminal:
            yield _LineProgress(self._print, self._clock, what, total, done)
        elif self._bars is not None:
            task = self._bars.add_task(what, total=total, completed=done, status="")
            try:
                yield _BarProgress(self._bars, task)
            finally:
                self._bars.remove_task(task)
        else:
            with Bars(*_columns(self._console.width), console=self._console, get_time=self._clock) as self._bars:
                try:
                    task = self._bars.add_task(what, total=total, completed=done, status="")
                    yield _BarProgress(self._bars, task)
                finally:
                    self._bars = None

    def _print(self, text: str) -> None:
        if not self._verbosity.quiet:
            _write(self._console, Text(text))


def _reporter_with(verbosity: Verbosity) -> RichReporter:
    return RichReporter(verbosity=verbosity)


class _SeveralProgress:
    def __init__(self, shown: Sequence[Progress]) -> None:
        self._shown = shown

    def advance(self, steps: int = 1, status: str = "") -> None:
        for progress in self._shown:
            progress.advance(steps, status)


class _Count:
    """Counts the steps."""

    total = 0

    def advance(self, steps: int = 1, status: str = "") -> None:
        del status
        self.total += steps


class _BarProgress:
    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, steps: int = 1, status: str = "") -> None:
        self._bars.update(self._task, advance=steps, status=shown(status))


class _LineProgress:
    """Prints a line after every tenth and at least every 30 seconds, but at most one per second."""

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float], what: str, total: int, done: int
    ) -> None:
        self._write, self._clock, self._what, self._total = write, clock, what, total
        self._done = self._first = done
        self._start = self._last_time = clock()
        self._last_tenth = self._tenth()

    def advance(self, steps: int = 1, status: str = "") -> None:
        self._done += steps
        now, tenth = self._clock(), self._tenth()
        quiet = now - self._last_time
        ends = self._done >= self._total > self._done - steps
        if ends or quiet >= _LINE_SECONDS or (tenth > self._last_tenth and quiet >= _QUIET_SECONDS):
            self._last_time, self._last_tenth = now, tenth
            self._write(self._line(now - self._start, shown(status)))

    def _tenth(self) -> int:
        return 10 * self._done // max(self._total, 1)

    def _line(self, elapsed: float, status: str) -> str:
        speed = (self._done - self._first) / elapsed if elapsed > 0 else 0.0
        left = max(self._total - self._done, 0)
        pieces = [
            f"{self._what}: {100 * self._done // max(self._total, 1)} %",
            f"{self._done}/{self._total}",
            _speed(speed),
            f"{_duration(elapsed)} elapsed",
            f"{_duration(left / speed)} left" if left and speed else "",
            status,
        ]
        width = min(_LINE_WIDTH, max(_requested_width() or _LINE_WIDTH, 20))
        for dropped in (None, 3, 2):  # a line too long for a narrow terminal does without time elapsed, then speed
            if dropped is not None:
                pieces[dropped] = ""
            line = ", ".join(piece for piece in pieces if piece)
            if len(line) <= width:
                return line
        return truncated(line, width)


class _FactColumn(ProgressColumn):
    """A short text about a task."""

    max_refresh = 0.5  # seconds: numbers that change faster cannot be read

    def __init__(self, fact: Callable[[Task], str]) -> None:
        super().__init__(Column(no_wrap=True))
        self._fact = fact

    def render(self, task: Task) -> Text:
        return Text(self._fact(task))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print a table to stdout: as wide as the terminal or COLUMNS, or else as wide as its content in a file or pipe.

    Args:
        title: printed above the table.
        columns: the header.
        rows: one cell per column; a float is shown with one decimal, None as a dash. Numeric columns are right-aligned.
    """
    console = Console(file=sys.stdout)
    if not console.is_terminal and _requested_width() is None:
        console.width = _UNLIMITED_WIDTH
    texts = [[_cell_text(cell) for cell in row] for row in rows]
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        is_number = bool(texts) and all(_is_number(row[index]) for row in texts)
        table.add_column(Text(name), justify="right" if is_number else "left", overflow="fold")
    for row in texts:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table, crop=False)


def print_error(message: str) -> None:
    """Print `Error: message` to stderr."""
    current().record("ERROR", message)
    _write(Console(file=sys.stderr), Text.assemble(("Error: ", "bold red"), message))


def _requested_width() -> int | None:
    """Return the width that the environment variable COLUMNS asks for, also in a pipe; None without one."""
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and int(columns) else None


def _write(console: Console, text: Text) -> None:
    text.plain = without_controls(text.plain)  # names of files may have any characters
    # Soft wrap: the terminal breaks long lines itself, so a path can be copied as a whole.
    console.print(text, soft_wrap=True, highlight=False)


def _columns(width: int) -> list[ProgressColumn]:
    """Return the columns that fit on one line of `width` characters."""
    status = TextColumn("{task.fields[status]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    name = TextColumn(
        "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", max_width=width // 4)
    )
    left = _FactColumn(lambda task: f"{_duration(task.time_remaining)} left" if task.time_remaining else "")
    if width < 40:
        return [name, TaskProgressColumn(), left]
    if width < 60:
        return [name, TaskProgressColumn(), left, status]
    count = MofNCompleteColumn()
    if width < 100:
        return [name, BarColumn(10), TaskProgressColumn(), count, left, status]
    speed = _FactColumn(lambda task: _speed(task.finished_speed or task.speed or 0.0))
    elapsed = _FactColumn(lambda task: f"{_duration(task.finished_time or task.elapsed or 0.0)} elapsed")
    return [name, BarColumn(20), TaskProgressColumn(), count, speed, elapsed, left, status]


def _speed(per_second: float) -> str:
    if per_second <= 0:
        return ""
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


def _duration(seconds: float) -> str:
    """Return a time such as `0:05`, `12:34` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _cell_text(cell: Cell) -> str:
    if cell is None:
        return DASH
    return f"{cell:.1f}" if isinstance(cell, float) else str(cell)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return text == DASH
    return True
