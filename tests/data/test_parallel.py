"""The parallel map."""

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
    time.sleep(0.01 * (number % 3))  # some take longer than their successors
    return number**2


def own_process(number: int) -> int:
    time.sleep(0.003)  # so that a single process cannot take all tasks
    return os.getpid()


def fail_at_9(number: int) -> int:
    if number == 9:
        raise DataError("nine")
    return number


def die_at_9(number: int) -> int:
    if number == 9:
        os._exit(3)
    return number


@pytest.mark.parametrize("workers", [1, 3])
def test_results_are_in_order(workers: int) -> None:
    assert list(map_in_order(square, range(50), workers)) == [number**2 for number in range(50)]


def test_all_processes_are_used() -> None:
    processes = set(map_in_order(own_process, range(64 * BATCH), 2))
    assert len(processes) == 2 and os.getpid() not in processes


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_are_consumed_as_needed(workers: int) -> None:
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
def test_errors_are_raised(workers: int) -> None:
    with pytest.raises(DataError, match="nine"):
        list(map_in_order(fail_at_9, range(50), workers))


def test_a_killed_process_is_reported() -> None:
    with pytest.raises(PanformerError, match="a worker process was killed"):
        list(map_in_order(die_at_9, range(50), 2))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_workers_end_when_their_parent_is_killed() -> None:
    code = "from tests.data.test_parallel import kill_parent; kill_parent()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None and parent.wait(60) == -signal.SIGKILL
        # The pipe stays open while one of the processes lives.
        has_ended = bool(select.select([parent.stdout], [], [], 20)[0])
        if not has_ended:
            os.killpg(parent.pid, signal.SIGKILL)
    assert has_ended


def kill_parent() -> None:
    """Be killed while the workers wait for work."""
    results = map_in_order(own_process, range(10_000), 2)
    next(results)
    os.kill(os.getpid(), signal.SIGKILL)


def test_at_least_one_core_is_available() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
