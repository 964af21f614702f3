"""The process of an engine stage: its device, its rank, and communication with other ranks."""

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
from panformer_cli.engine.distributed.out_of_memory import is_out_of_memory
from panformer_cli.errors import PanformerError
from panformer_cli.models.layers.sampling import SamplingName
from panformer_cli.wording import counted

Value = TypeVar("Value")

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class ProcessOptions:
    """Command-line options for processes and devices.

    Attributes:
        gpus: Number of processes, one per GPU. If this and `cpu_processes` are None: one process on `device`.
        cpu_processes: Number of processes on the CPU.
        device: `auto` (the first GPU, if there is one), `cpu`, `cuda`, `cuda:1` or `mps`, Apple's GPU.
        sampling: Implementation of the sampling step of deformable attention.
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
        available = torch.cuda.device_count()
        if self.gpus is not None and self.gpus > available:
            found = counted(available, "GPU") if available else "no GPUs"
            advice = f"use at most {available}" if available else "omit the option to run on the CPU"
            raise PanformerError(f"--gpus is {self.gpus}, but torch finds {found} on this machine; {advice}")
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
            f"--device is {name!r}, which is not available here; expected one of {', '.join(_available_devices())}"
        ) from error


def _available_devices() -> list[str]:
    """Return the names that `--device` can have on this machine."""
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ["auto", "cpu", *(["cuda", *gpus] if gpus else []), *(["mps"] if torch.backends.mps.is_available() else [])]


def device_of(options: ProcessOptions, local_rank: int | None = None) -> torch.device:
    """Return the device of a process. For the CPU, also configure the allocator.

    Args:
        options: Command-line options.
        local_rank: Rank of the process on this machine, which is the index of its GPU; None for a single process.
    """
    name = "cpu" if options.cpu_processes is not None else "cuda" if options.gpus is not None else options.device
    if name == "auto":
        # Apple's GPU is a single one, without collective operations.
        on_mps = local_rank is None and torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if on_mps else "cpu"
    if name == "cuda" and local_rank is not None:
        name = f"cuda:{local_rank}"
    device = torch.device(name)
    if device.type == "cpu":
        keep_freed_memory()
    return device


@dataclass(frozen=True)
class Process:
    """One process of an engine stage. All processes run the same functions; rank 0 reports and writes shared files.

    Attributes:
        rank: 0 .. world_size - 1.
        world_size: Number of processes.
        device: Device of this process.
        store: Store of the process group; None for a single process.
        sampling: Implementation of the sampling step of deformable attention.
    """

    rank: int
    world_size: int
    device: torch.device
    store: Store | None = None
    sampling: SamplingName = "auto"
    _waits: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    @classmethod
    def single(cls, device: str = "auto") -> Process:
        """Return a single process on the given device.

        Raises:
            PanformerError: The device is not available.
        """
        return cls(0, 1, device_of(ProcessOptions(device=device)))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes, with the same shape and dtype."""
        if self.world_size == 1:
            return values
        total = values.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(values.device)

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes, by rank; for small picklable values."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def spread(self, tensors: Iterable[torch.Tensor]) -> None:
        """Set the tensors in place to their values on rank 0."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def on_first(self, work: Callable[[], Value]) -> Value:
        """Run `work` on rank 0 only, for any length of time, and return its picklable result on every rank.

        Raises:
            PanformerError: If `work` raised one on rank 0, it is raised on every rank.
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
        """Run `work` on rank 0, then on the other ranks, which can use files that rank 0 wrote, such as an index.

        Raises:
            PanformerError: As `on_first`, or `work` raised one on this rank.
        """
        results: list[Value] = []
        self.on_first(lambda: results.append(work()))
        return results[0] if results else work()

    def wait_for_first(self) -> None:
        """Wait until rank 0 calls this, too. Unlike a collective operation, it has no timeout."""
        if self.store is None:
            return
        key = f"first {next(self._waits)}"
        if self.is_first:
            self.store.set(key, "")
        while not self.store.check([key]):
            time.sleep(_POLL_SECONDS)  # a Python loop, so that signals are handled

    def announce(self, event: str) -> None:
        """Let the other ranks see an event; they look with `is_announced` and do not wait."""
        if self.store is not None:
            self.store.set(f"event {event}", "")

    def is_announced(self, event: str) -> bool:
        """Return whether any other rank has announced an event."""
        return self.store is not None and self.store.check([f"event {event}"])

    @contextlib.contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """Yield a temporary folder for all ranks; rank 0 deletes it at the end."""
        with contextlib.ExitStack() as stack:
            yield self.on_first(lambda: Path(stack.enter_context(TemporaryDirectory(prefix="panformer-"))))

    def wait(self) -> None:
        """Wait until all processes call this."""
        if self.world_size > 1:
            dist.barrier()


@contextlib.contextmanager
def explained_out_of_memory() -> Iterator[None]:
    """Turn an error that means that memory ran out into a PanformerError."""
    try:
        yield
    except PanformerError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        is_gpu = any(word in str(error) for word in ("CUDA", "CUBLAS", "CUDNN", "MPS", "HIP", "GPU"))
        place, other = ("the GPU", "; or use the CPU") if is_gpu else ("the computer", "")
        raise PanformerError(
            f"{place} ran out of memory; in predict and evaluate use --batch-size 1; in train use --fit-memory, --set "
            "train.images_per_forward=1, --set train.precision=bf16, or smaller images (data.short_side, "
            f"data.long_side, data.train_short_sides and the crops together){other}"
        ) from error
