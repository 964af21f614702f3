"""What a process needs to know: options, its rank and device, how to talk to the others, and when to stop."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from panformer_cli import __version__
from panformer_cli.engine.allocator import keep_freed_memory
from panformer_cli.errors import PanformerError
from panformer_cli.models.layers.sampling import SamplingName


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


def device_of(options: ProcessOptions, local_rank: int) -> torch.device:
    """The device of one process; a process that computes on the CPU is made ready for it.

    local_rank: the place of the process among those of this machine, from 0.
    """
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


@contextlib.contextmanager
def process_group(device: torch.device, **where: Any) -> Iterator[None]:
    """Inside, the processes can talk to each other: through NCCL on GPUs, else through gloo.

    where: of `init_process_group`: how they find each other; the environment says it where nothing else does.
    """
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", **where)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def working(options: ProcessOptions) -> Iterator[None]:
    """Around the work of a process: a full GPU is reported in one sentence."""
    del options
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise PanformerError(
            "the memory of the GPU ran out; use a smaller --batch-size, or in training one image at a time "
            "(--set train.images_per_forward=1), smaller images (--set data.train_short_sides=[...], "
            "data.long_side=...), --set train.precision=bf16, or the CPU"
        ) from error


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
    with signals_to(request._handle):
        yield request


@contextlib.contextmanager
def signals_to(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
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
