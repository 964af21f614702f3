"""Work in several processes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from panformer_cli.data.parallel import BATCH, available_cores, map_in_order
from panformer_cli.errors import DataError, PanformerError


def square(number: int) -> int:
    time.sleep(0.01 * (number % 3))  # some take longer than those after them
    return number**2


def own_process(number: int) -> int:
    time.sleep(0.003)  # so that one process alone is not quick enough for all
    return os.getpid()


def refuse_9(number: int) -> int:
    if number == 9:
        raise DataError("nine")
    return number


def die_at_9(number: int) -> int:
    if number == 9:
        os._exit(3)
    return number


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order(workers: int) -> None:
    assert list(map_in_order(square, range(50), workers)) == [number**2 for number in range(50)]


def test_all_processes_take_part() -> None:
    processes = set(map_in_order(own_process, range(64 * BATCH), 2))
    assert len(processes) == 2 and os.getpid() not in processes


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_are_drawn_as_they_are_needed(workers: int) -> None:
    drawn: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(10_000):
            drawn.append(number)
            yield number

    results = map_in_order(square, tasks(), workers)
    assert next(results) == 0
    assert len(drawn) <= 4 * workers * BATCH
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_arrive(workers: int) -> None:
    with pytest.raises(DataError, match="nine"):
        list(map_in_order(refuse_9, range(50), workers))


def test_a_process_that_is_ended_from_outside_is_told_of() -> None:
    with pytest.raises(PanformerError, match="was killed, possibly because the system ran out of memory"):
        list(map_in_order(die_at_9, range(50), 2))


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_processes_end_with_the_first_one_however_it_ends() -> None:
    code = "from tests.data.test_parallel import kill_first; kill_first()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as first:
        assert first.stdout is not None and first.wait(60) == -signal.SIGKILL
        # What the processes write to stays open as long as one of them lives.
        has_ended = bool(select.select([first.stdout], [], [], 20)[0])
        if not has_ended:
            os.killpg(first.pid, signal.SIGKILL)
    assert has_ended


def kill_first() -> None:
    """Die like a process that the system kills, while others wait for work."""
    results = map_in_order(own_process, range(10_000), 2)
    next(results)
    os.kill(os.getpid(), signal.SIGKILL)


def test_there_is_a_core() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
