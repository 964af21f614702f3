"""What an engine stage knows about where it runs: the device, its rank, and how to exchange values with other ranks."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from panformer_cli.engine.distributed.allocator import keep_freed_memory
from panformer_cli.errors import PanformerError
from panformer_cli.models.layers.sampling import SamplingName

Value = TypeVar("Value")

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class ProcessOptions:
    """What a user asks for on the command line.

    gpus: processes, one per GPU. cpu_processes: processes on the CPU. Both None: one process on `device`.
    device: `auto` (the first GPU, if there is one), `cpu`, `cuda` or `cuda:1`.
    sampling: implementation of the inner step of deformable attention.
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
        _check_device(self.device)

    @property
    def processes(self) -> int:
        return self.gpus or self.cpu_processes or 1


def _check_device(name: str) -> None:
    if name == "auto":
        return
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise PanformerError(
            f"--device is {name!r}, which is not available here; expected auto, cpu or cuda"
        ) from error


def device_of(options: ProcessOptions, local_rank: int | None = None) -> torch.device:
    """Return the device of a process; one that computes on the CPU is prepared for that.

    Args:
        options: What the user asked for.
        local_rank: Rank of the process on this machine, which is the number of its GPU; None for a single process.
    """
    name = "cpu" if options.cpu_processes is not None else "cuda" if options.gpus is not None else options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and local_rank is not None:
        name = f"cuda:{local_rank}"
    device = torch.device(name)
    if device.type == "cpu":
        keep_freed_memory()
    return device


@dataclass(frozen=True)
class Process:
    """One process of an engine stage. All processes run the same functions; rank 0 reports and writes shared files.

    rank: 0 .. world_size - 1.
    store: Of the process group; None for a single process.
    sampling: implementation of the inner step of deformable attention.
    """

    rank: int
    world_size: int
    device: torch.device
    store: Store | None = None
    sampling: SamplingName = "auto"
    _waits: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    @classmethod
    def single(cls, device: str = "auto") -> Process:
        """Return the process of a program that runs alone, on the named device.

        Raises:
            PanformerError: There is no such device here.
        """
        return cls(0, 1, device_of(ProcessOptions(device=device)))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes; dtype and shape are kept."""
        if self.world_size == 1:
            return values
        total = values.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(values.device)

    def gather(self, value: Value) -> list[Value]:
        """Return the value of every process, by rank; small picklable values only."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def spread(self, tensors: Iterable[torch.Tensor]) -> None:
        """Set the tensors, in place, to the values that they have on rank 0."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def on_first(self, work: Callable[[], Value]) -> Value:
        """Run `work` on rank 0 only, for any length of time, and return its picklable result on every rank.

        Raises:
            PanformerError: The one that `work` raised, on every rank.
        """
        if self.world_size == 1:
            return work()
        outcome: list[Any] = [None]
        if self.is_first:
            try:
                outcome = [work()]
            except PanformerError as error:
                outcome = [error]
        self.wait_for_first()
        dist.broadcast_object_list(outcome, 0, device=self.device)
        if isinstance(outcome[0], PanformerError):
            raise outcome[0]
        result: Value = outcome[0]
        return result

    def first_then_others(self, work: Callable[[], Value]) -> Value:
        """Run `work` on rank 0, then on the other ranks, which find what it left on disk, such as an index.

        Raises:
            PanformerError: The one that `work` raised on rank 0, on every rank; or one of this rank.
        """
        results: list[Value] = []
        self.on_first(lambda: results.append(work()))
        return results[0] if results else work()

    def wait_for_first(self) -> None:
        """Wait until rank 0 calls this too. Unlike in a collective operation, that may take hours."""
        if self.store is None:
            return
        key = f"first {next(self._waits)}"
        if self.is_first:
            self.store.set(key, "")
        while not self.store.check([key]):
            time.sleep(_POLL_SECONDS)  # in Python, where signals are handled

    @contextlib.contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """Yield one folder for all ranks, which rank 0 removes when it leaves."""
        with contextlib.ExitStack() as stack:
            yield self.on_first(lambda: Path(stack.enter_context(TemporaryDirectory(prefix="panformer-"))))

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            dist.barrier()


@contextlib.contextmanager
def explained_out_of_memory() -> Iterator[None]:
    """Inside, running out of GPU memory is a PanformerError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise PanformerError(
            "the memory of the GPU ran out; use a smaller --batch-size, or in training one image at a time "
            "(--set train.images_per_forward=1), smaller images (--set data.train_short_sides=[...], "
            "data.long_side=...), --set train.precision=bf16, or the CPU"
        ) from error
