"""The process group of a distributed command: joining it, and reporting each failure once."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from panformer_cli.engine.distributed.runtime import Process, ProcessOptions, device_of, explained_out_of_memory
from panformer_cli.engine.distributed.worker import RESTARTS, VARIABLES, Worker
from panformer_cli.errors import PanformerError
from panformer_cli.models.layers.sampling import check_sampling
from panformer_cli.wording import counted

_LOG = logging.getLogger(__name__)

_JOIN_SECONDS, _REPORT_SECONDS, _KILLED_SECONDS = 300.0, 10.0, 2.0
_HEAD_START_SECONDS = 0.3


class UnreachableError(PanformerError):
    """The other processes cannot be reached."""

    may_pass = True


@contextlib.contextmanager
def joined(options: ProcessOptions) -> Iterator[Process]:
    """Yield this process, which joins the process group if torchrun or `launcher.launch` started it.

    All ranks must enter and leave the context; ranks that succeed leave after rank 0.

    Raises:
        PanformerError: The options do not match the number of processes, the other processes cannot be reached, or
            the GPU ran out of memory inside the context.
    """
    worker = Worker.of_environment()
    _check_options(options, worker)
    device = device_of(options, worker.local_rank if worker else None)
    check_sampling(options.sampling, device.type)
    rank = f"rank {worker.rank} of {worker.world_size}" if worker else "a single process"
    threads = torch.get_num_threads()
    _LOG.debug(
        "%s on %s, %d threads, PyTorch %s, sampling %s", rank, device, threads, torch.__version__, options.sampling
    )
    if worker is None:
        with explained_out_of_memory():
            yield Process(0, 1, device, sampling=options.sampling)
        return
    store = _store(worker, _JOIN_SECONDS)
    with _process_group(worker, device, PrefixStore("group", store)), explained_out_of_memory():
        ranks = PrefixStore("ranks", store)
        process = Process(worker.rank, worker.world_size, device, ranks, options.sampling)
        try:
            yield process
            # The launcher ends all workers once one has exited with a code other than 0.
            process.wait_for_first()
        except (Exception, KeyboardInterrupt):
            with contextlib.suppress(dist.DistError):
                _is_first_to_fail(worker, store)  # recorded before other ranks fail because this one is gone
            raise


@contextlib.contextmanager
def _process_group(worker: Worker, device: torch.device, store: Store) -> Iterator[None]:
    """Initialize the default process group, with NCCL on GPUs and else gloo, and destroy it at the end."""
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=worker.rank, world_size=worker.world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _store(worker: Worker, seconds: float) -> Store:
    """Return the store for all ranks, which is hosted by the launcher, or else by rank 0.

    torchrun keeps it when it restarts the ranks (`--max-restarts`), so each start has keys of its own. On several
    machines, whose counts of restarts can differ, only `launcher.launch` restarts ranks, with a new store.
    """
    try:
        timeout = timedelta(seconds=seconds)
        store: Store = next(iter(rendezvous("env://", worker.rank, worker.world_size, timeout=timeout)))[0]
    except (dist.DistError, ValueError, RuntimeError) as error:
        raise UnreachableError(
            f"the environment variables {', '.join(VARIABLES)} say that torchrun started this process, but the other "
            f"processes cannot be reached ({str(error).splitlines()[0]}); unset them to run without torchrun"
        ) from error
    return store if worker.nodes > 1 else PrefixStore(f"start {os.environ.get(RESTARTS, 0)}", store)


def reports_failure(worker: Worker, error: BaseException, is_bug: bool) -> bool:
    """Return whether this rank, which has failed, should report its error: only the first rank that failed does.

    Args:
        worker: This process.
        error: The exception.
        is_bug: Whether the exception is unexpected. Then a killed rank may be its cause.
    """
    if isinstance(error, UnreachableError):
        return True
    try:
        reports = _is_first_to_fail(worker, _store(worker, _REPORT_SECONDS))
    except (dist.DistError, UnreachableError):
        reports = worker.rank == 0  # without a launcher it hosts the store, so the others end after it
    if not reports:
        time.sleep(_REPORT_SECONDS)  # the launcher ends this process when the reporting rank has exited
    elif is_bug:
        time.sleep(_KILLED_SECONDS)  # if another rank was killed, the launcher ends this process and reports that
    return reports


def _is_first_to_fail(worker: Worker, store: Store) -> bool:
    time.sleep(_HEAD_START_SECONDS * (worker.rank > 0))  # if all ranks fail in the same way, rank 0 should be first
    own = str(worker.rank)
    return bool(PrefixStore("failure", store).compare_set("rank", "", own) == own.encode())


def _check_options(options: ProcessOptions, worker: Worker | None) -> None:
    """Raise PanformerError unless the options match the number of processes and there is a GPU for each."""
    count, gpus = worker.local_world_size if worker else 1, torch.cuda.device_count()
    started = f"torchrun started {counted(count, 'process')} on this machine" if worker else "there is only one process"
    for name, asked in (("--gpus", options.gpus), ("--cpu-processes", options.cpu_processes)):
        if asked not in (None, count):
            raise PanformerError(f"{name} is {asked}, but {started}; use torchrun --nproc-per-node {asked}")
    if count > 1 and (":" in options.device or options.device == "mps"):
        raise PanformerError(
            f"--device is {options.device!r}, a single device, but {started}; omit it to use one GPU each, or use cpu"
        )
    on_gpus = options.cpu_processes is None and options.device != "cpu" and gpus > 0
    if on_gpus and count > gpus:
        raise PanformerError(
            f"{started}, which has {counted(gpus, 'GPU')}; use torchrun --nproc-per-node {gpus}, or --device cpu"
        )
