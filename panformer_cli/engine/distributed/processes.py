"""Work in one process or several: the same engine code runs alone, on several GPUs, or in several CPU processes."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from panformer_cli.engine.distributed.runtime import (
    Process,
    ProcessOptions,
    StopRequest,
    device_of,
    process_group,
    signals_to,
    working,
)
from panformer_cli.engine.distributed.team import current_team
from panformer_cli.errors import PanformerError
from panformer_cli.files import atomic_write


def run_processes(options: ProcessOptions, work: Callable[..., None], *arguments: Any) -> None:
    """Call `work(process, *arguments)` in as many processes as asked for, and wait for them.

    One process is this one. More are started by torch's elastic launcher on this machine; a failure of one ends all.
    Where torchrun started the command, its processes are used, and none is started; see `team`.
    `work` and its arguments have to be picklable. CPU processes share the cores, unless OMP_NUM_THREADS says how many
    threads each has; with equal threads, what is computed does not depend on the number of processes to the last digit.

    Raises:
        PanformerError: what `work` raised, from any process; or a process was killed.
        KeyboardInterrupt: SIGINT or SIGTERM came, and `work` did not end by itself.
    """
    team = current_team()
    if team is not None:
        team.run(options, work, arguments)
    elif options.processes == 1:
        with working(options):
            work(Process(0, 1, device_of(options, 0)), *arguments)
    else:
        _launch(options, work, arguments)


def _launch(options: ProcessOptions, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=options.processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="spawn",
        run_id=f"panformer-{os.getpid()}",
    )
    # In a thread of its own torch's launcher leaves the signals of this process to us: a stop has to reach the workers
    # as a request, and they need the time to save.
    with (
        TemporaryDirectory(prefix="panformer-") as folder,
        _shared_cores(options.processes),
        _stop_of_children() as stop,
        ThreadPoolExecutor(1) as pool,
    ):
        launched = pool.submit(elastic_launch(config, _worker), options, work, arguments, Path(folder))
        try:
            launched.result()
        except ChildFailedError as error:
            if stop:
                raise KeyboardInterrupt from error
            raise _failure_of(error, Path(folder), options.processes) from error


@contextlib.contextmanager
def _shared_cores(processes: int) -> Iterator[None]:
    """Inside, a new process begins with its share of the cores, unless OMP_NUM_THREADS is set already."""
    name = "OMP_NUM_THREADS"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(max(1, (os.cpu_count() or 1) // processes))
    try:
        yield
    finally:
        del os.environ[name]


def _failure_of(error: ChildFailedError, folder: Path, processes: int) -> Exception:
    """What to raise: the PanformerError of a worker; else what befell it, which is no mistake of the user."""
    rank, failure = error.get_first_failure()
    # The first to fail left its text first; the others only lost their partner.
    mistakes, traces = (_oldest_text(folder, pattern) for pattern in ("*.mistake", "*.trace"))
    if mistakes:
        return PanformerError(mistakes)
    if failure.exitcode == -signal.SIGKILL:
        return PanformerError(
            f"process {rank} of {processes} was killed from outside, most often because memory ran short; use fewer "
            "processes or smaller images"
        )
    return RuntimeError(f"process {rank} of {processes} failed with exit code {failure.exitcode}\n{traces}")


def _oldest_text(folder: Path, pattern: str) -> str:
    """The text of the file written first; empty where there is none."""
    files = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns)
    return files[0].read_text(encoding="utf-8") if files else ""


def _worker(options: ProcessOptions, work: Callable[..., None], arguments: tuple[Any, ...], folder: Path) -> None:
    """A worker that leaves in `folder` what went wrong, and ends so that the others end too."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = device_of(options, int(os.environ["LOCAL_RANK"]))
    with process_group(device), _failure_left(folder, rank), working(options):
        work(Process(rank, world_size, device), *arguments)


@contextlib.contextmanager
def _failure_left(folder: Path, rank: int) -> Iterator[None]:
    try:
        yield
    except PanformerError as error:
        _leave_text(folder / f"{rank}.mistake", str(error))
        raise SystemExit(2) from error  # of this worker; the launcher then ends the others
    except Exception:
        _leave_text(folder / f"{rank}.trace", traceback.format_exc())
        raise


def _leave_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _stop_of_children() -> Iterator[StopRequest]:
    """Inside, SIGINT and SIGTERM become a SIGTERM to the child processes; a second SIGINT ends them at once."""

    def tell(number: int, frame: FrameType | None) -> None:
        del frame
        at_once = bool(request) and number == signal.SIGINT
        request.requested = True
        for child in multiprocessing.active_children():
            (child.kill if at_once else child.terminate)()

    request = StopRequest()
    with signals_to(tell):
        yield request
