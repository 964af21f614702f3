"""Process the images of a split in several processes, and resume from the log of an interrupted command."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from panformer_cli.data.parallel import map_in_order
from panformer_cli.reporting import Progress
from panformer_cli.storage.result_log import Line, ResultLog, line_text

Task = TypeVar("Task")


def stamp_of(*paths: Path) -> list[int | None]:
    """Return the sizes and modification times of the files; None for a file that does not exist."""
    stamp: list[int | None] = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            stamp.append(None)
        else:
            stamp += [status.st_size, status.st_mtime_ns]
    return stamp


def work_out(
    log: ResultLog,
    total: int,
    tasks: Callable[[], Iterable[Task]],
    stamp: Callable[[Task], Any],
    work: Callable[[Task], Line],
    workers: int,
    progress: Progress,
) -> list[str]:
    """Append `work(task)` to `log` for each task whose line is missing, has a problem, or has another stamp.

    `work` must be picklable unless `workers` is 1. Its result has `stamp(task)` as `stamp` and, if an image cannot be
    used, the reason as `problem`.

    Returns:
        All problems, in task order.
    """
    finished = _finished(log, total, tasks(), stamp)
    progress.advance(sum(finished))
    missing = ((index, task) for index, task in enumerate(tasks()) if not finished[index])
    problems = []
    for text, problem in map_in_order(partial(_line_of, work), missing, workers):
        log.append_text(text)
        progress.advance()
        if problem is not None:
            problems.append(problem)
    return problems


def _finished(log: ResultLog, total: int, tasks: Iterable[Task], stamp: Callable[[Task], Any]) -> bytearray:
    """Return for each task 1 if its line can be kept, else 0."""
    finished, numbered = bytearray(total), enumerate(tasks)
    for line in log.lines(total):
        task = next(task for index, task in numbered if index == line["index"])
        finished[line["index"]] = "problem" not in line and line["stamp"] == stamp(task)
    return finished


def _line_of(work: Callable[[Task], Line], numbered: tuple[int, Task]) -> tuple[str, str | None]:
    """Return a task's line as JSON, which is faster to send than the object, and its problem."""
    index, task = numbered
    line = work(task)
    return line_text(index, line), line.get("problem")
