"""A parallel map over many images in several processes: ordered results, a bounded number of images in flight."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import parent_process
from threading import Thread
from typing import Any, TypeVar

from panformer_cli.data.coco import png_codec
from panformer_cli.errors import PanformerError

BATCH = 8
"""Images sent to a process together, to share the overhead of a call."""

Task = TypeVar("Task")
Result = TypeVar("Result")


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_order(work: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """Yield `map(work, tasks)`, computed in `workers` processes; 1 computes in this process.

    With several workers, tasks and results must be picklable; `work` is sent to each process once, when it starts.
    Tasks are consumed as needed, so memory does not grow with their number.

    Raises:
        PanformerError: a worker was killed. Exceptions of `work` are raised unchanged.
    """
    if workers == 1:
        yield from map(work, tasks)
        return
    for results in _in_processes(work, _batches(iter(tasks)), workers):
        yield from results


def _batches(tasks: Iterator[Task]) -> Iterator[list[Task]]:
    while batch := list(islice(tasks, BATCH)):
        yield batch


def _in_processes(
    work: Callable[[Task], Result], batches: Iterable[list[Task]], workers: int
) -> Iterator[list[Result]]:
    pool = ProcessPoolExecutor(workers, initializer=_start_process, initargs=(work, png_codec.is_loaded()))
    pending: deque[Future[list[Result]]] = deque()
    try:
        for batch in batches:
            pending.append(pool.submit(_work_on, batch))
            if len(pending) >= 4 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise PanformerError(
            "a worker process was killed, possibly because the system ran out of memory; try --workers 1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_work: Callable[[Any], Any]
"""The function that a worker process applies to each task."""


def _start_process(work: Callable[[Any], Any], reads_many_pngs: bool) -> None:
    global _work
    _work = work
    if reads_many_pngs:  # only a forked process inherits the loaded decoder
        png_codec.load()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent is killed; it would otherwise wait for work forever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _work_on(batch: list[Any]) -> list[Any]:
    return [_work(task) for task in batch]
