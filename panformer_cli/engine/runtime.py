"""Devices and processes: the same engine code runs alone, on several GPUs, or in several CPU processes."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import platform
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from panformer_cli import __version__
from panformer_cli.engine.memory import keep_freed_memory
from panformer_cli.errors import PanformerError
from panformer_cli.files import atomic_write
from panformer_cli.models.sampling import SamplingName, sampling_by


@dataclass(frozen=True)
class ProcessOptions:
    """What a user asks for on the command line.

    gpus: processes, one a GPU. cpu_processes: processes on the CPU. Both None: one process on `device`.
    device: `auto` (the first GPU, if there is one), `cpu`, `cuda` or `cuda:1`.
    sampling: who computes the inner step of deformable attention.
    """

    gpus: int | None = None
    cpu_processes: int | None = None
    device: str = "auto"
    sampling: SamplingName = "auto"

    def __post_init__(self) -> None:
        if self.gpus is not None and self.cpu_processes is not None:
            raise PanformerError("--gpus and --cpu-processes are both given; choose one of them")
        for name, count in (("--gpus", self.gpus), ("--cpu-processes", self.cpu_processes)):
            if count is not None and count < 1:
                raise PanformerError(f"{name} is {count}: expected 1 or more")
        there = torch.cuda.device_count()
        if self.gpus is not None and self.gpus > there:
            way_out = f"ask for at most {there}" if there else "leave the option out to run on the CPU"
            raise PanformerError(
                f"--gpus is {self.gpus}, but torch finds {there or 'no'} GPUs on this machine; {way_out}"
            )
        check_device(self.device)

    @property
    def processes(self) -> int:
        return self.gpus or self.cpu_processes or 1

    def words(self) -> list[str]:
        """The options that say the same on the command line."""
        if self.gpus is not None:
            where = ["--gpus", str(self.gpus)]
        elif self.cpu_processes is not None:
            where = ["--cpu-processes", str(self.cpu_processes)]
        else:
            where = [] if self.device == "auto" else ["--device", self.device]
        return where if self.sampling == "auto" else [*where, "--sampling", self.sampling]


def check_device(name: str) -> None:
    """Raises PanformerError unless `name` is `auto` or a device of this machine."""
    if name == "auto":
        return
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise PanformerError(
            f"--device is {name!r}, which is not available here; expected auto, cpu or cuda"
        ) from error


@dataclass(frozen=True)
class Process:
    """One process of a stage.

    rank: 0 .. world_size - 1; process 0 talks to the person and writes the files that are written once.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, on every process; dtype and shape are kept."""
        if self.world_size == 1:
            return values
        total = values.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(values.device)

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in the order of ranks, on every process; small picklable values only."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def spread(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give the tensors, in place, the values that they have in the first process."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def wait(self) -> None:
        """Until every process is here."""
        if self.world_size > 1:
            dist.barrier()


def run_processes(options: ProcessOptions, work: Callable[..., None], *arguments: Any) -> None:
    """Call `work(process, *arguments)` in as many processes as asked for, and wait for them.

    One process is this one. More are started by torch's elastic launcher on this machine; a failure of one ends all.
    `work` and its arguments have to be picklable. CPU processes share the cores, unless OMP_NUM_THREADS says how many
    threads each has; with equal threads, what is computed does not depend on the number of processes to the last digit.

    Raises:
        PanformerError: what `work` raised, from any process; or a process was killed.
        KeyboardInterrupt: SIGINT or SIGTERM came, and `work` did not end by itself.
    """
    if options.processes == 1:
        with _short_memory_told(), sampling_by(options.sampling):
            work(Process(0, 1, _device(options, 0)), *arguments)
    else:
        _launch(options, work, arguments)


@contextlib.contextmanager
def _short_memory_told() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise PanformerError(
            "the memory of the GPU ran out; use a smaller --batch-size, or in training one image at a time "
            "(--set train.images_per_forward=1), smaller images (--set data.train_short_sides=[...], "
            "data.long_side=...), --set train.precision=bf16, or the CPU"
        ) from error


def _launch(options: ProcessOptions, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // options.processes)))
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
    with TemporaryDirectory(prefix="panformer-") as folder, _stop_of_children() as stop, ThreadPoolExecutor(1) as pool:
        launched = pool.submit(elastic_launch(config, _worker_reporting), options, work, arguments, Path(folder))
        try:
            launched.result()
        except ChildFailedError as error:
            if stop:
                raise KeyboardInterrupt from error
            raise _failure_of(error, Path(folder), options.processes) from error


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


def _worker_reporting(
    options: ProcessOptions, work: Callable[..., None], arguments: tuple[Any, ...], folder: Path
) -> None:
    """A worker that leaves in `folder` what went wrong, and ends so that the others end too."""
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)

    def work_or_tell(process: Process, *given: Any) -> None:
        try:
            with _short_memory_told(), sampling_by(options.sampling):
                work(process, *given)
        except PanformerError as error:
            _leave_text(folder / f"{process.rank}.mistake", str(error))
            raise SystemExit(2) from error  # of this worker; the launcher then ends the others
        except Exception:
            _leave_text(folder / f"{process.rank}.trace", traceback.format_exc())
            raise

    _worker(options, work_or_tell, arguments)


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
    with _handled(tell):
        yield request


def _worker(options: ProcessOptions, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = _device(options, int(os.environ["LOCAL_RANK"]))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        work(Process(rank, world_size, device), *arguments)
    finally:
        dist.destroy_process_group()


def _device(options: ProcessOptions, local_rank: int) -> torch.device:
    """The device of one process; a process that computes on the CPU is made ready for it."""
    device = _chosen_device(options, local_rank)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def _chosen_device(options: ProcessOptions, local_rank: int) -> torch.device:
    if options.cpu_processes is not None:
        return torch.device("cpu")
    if options.gpus is not None:
        return torch.device("cuda", local_rank)
    if options.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(options.device)


class StopRequest:
    """Set by Ctrl-C or a termination signal, so that a loop can save before it ends. A second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Inside, SIGINT and SIGTERM only set the `StopRequest`; outside of the main thread nothing changes."""
    request = StopRequest()
    with _handled(request._handle):
        yield request


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside, `handler` gets SIGINT and SIGTERM, where this is the main thread: others may not set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def environment() -> dict[str, Any]:
    """What a run's figures depend on besides its recipe."""
    return {
        "panformer": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "command": sys.argv,
    }
