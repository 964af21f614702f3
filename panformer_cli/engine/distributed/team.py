"""The processes that torchrun started: the first runs the command, the others do their share of its work.

Only the first process reads the command line, prints and makes folders, so a command is written as if it were alone.
Where it asks for processes (`processes.run_processes`), the others, which wait for that in `Team.help`, get the work
and its arguments. They end with the exit code of the first.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from panformer_cli.engine.distributed.runtime import Process, ProcessOptions, device_of, process_group, working
from panformer_cli.engine.distributed.torchrun import VARIABLES, Place
from panformer_cli.errors import PanformerError

INTERRUPTED = 130
"""Exit code after Ctrl-C."""
MISTAKE = 2
"""Exit code after a PanformerError."""
_MEETING_SECONDS = 300.0
_LEAVING_SECONDS = 5.0
_POLL_SECONDS = 0.05

_team: Team | None = None


def current_team() -> Team | None:
    """The team that this process belongs to, inside of `joined_team`."""
    return _team


@contextlib.contextmanager
def joined_team(place: Place) -> Iterator[Team]:
    """Inside, this process belongs to the team; afterwards it has to end, with `Team.exit_code`.

    Raises:
        PanformerError: the other processes cannot be found.
    """
    global _team
    _team = Team(place, _meet(place))
    try:
        yield _team
    finally:
        _team.leave()
        _team = None


class Team:
    """All processes, seen from one of them; `joined_team` makes it.

    Orders and failures lie in the store that torchrun, or the first process, offers to all: there the others may wait
    for hours, while a process group has time limits.

    exit_code: of this process; that of the first process becomes that of all.
    """

    def __init__(self, place: Place, store: Store) -> None:
        self.place = place
        self.exit_code = 1
        self._works = 0
        self._store = store

    @property
    def is_first(self) -> bool:
        return self.place.rank == 0

    def run(self, options: ProcessOptions, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Of the first process: call `work(process, *arguments)` in all of them.

        Raises:
            PanformerError: what `work` raised here.
            SystemExit: another process failed, and told why.
            KeyboardInterrupt: a process was interrupted.
        """
        self._give(options)
        self._share(options, [work, arguments])

    def help(self) -> int:
        """Of all others: do the first process's work with it, until it ends; gives its exit code."""
        try:
            while isinstance(order := self._next_order(), ProcessOptions):
                self._share(order, [None, None])
        except KeyboardInterrupt:
            self._first_failure(INTERRUPTED)
            return INTERRUPTED
        assert isinstance(order, int)
        return order

    def leave(self) -> None:
        """Tell the others that the first process ends, and wait a little until all have heard it.

        The first to exit with an error makes torchrun end the others by SIGTERM; it comes too late for them here.
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        deadline = time.monotonic() + _LEAVING_SECONDS
        with contextlib.suppress(dist.DistError):  # whoever offers the store may be gone already
            if self.is_first:
                self._give(self.exit_code)
            left = self._store.add("left", 1)
            while left < self.place.world_size and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
                left = self._store.add("left", 0)

    def _give(self, order: ProcessOptions | int) -> None:
        """Options of a work, or the exit code at the end."""
        content = asdict(order) if isinstance(order, ProcessOptions) else order
        self._store.set(f"order {self._works}", json.dumps(content))

    def _next_order(self) -> ProcessOptions | int:
        name = f"order {self._works}"
        try:
            while not self._store.check([name]):
                time.sleep(_POLL_SECONDS)  # in Python, where signals are heard
            content: dict[str, Any] | int = json.loads(self._store.get(name))
        except dist.DistError:
            return 1  # torchrun or the first process was killed; nobody needs this process
        return content if isinstance(content, int) else ProcessOptions(**content)

    def _share(self, options: ProcessOptions, given: list[Any]) -> None:
        """Do a work, all processes at once; `given` is work and arguments in the first process."""
        place = self.place
        device = _device(options, place)
        store = PrefixStore(f"work {self._works}", self._store)
        self._works += 1
        with (
            process_group(device, store=store, rank=place.rank, world_size=place.world_size),
            self._one_message(),
            working(options),
        ):
            dist.broadcast_object_list(given, 0, device=device)  # may be more than the store takes
            work, arguments = given
            work(Process(place.rank, place.world_size, device), *arguments)

    @contextlib.contextmanager
    def _one_message(self) -> Iterator[None]:
        """The first process to fail tells of it; the others mostly fail because they lost it, and end silently."""
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            own = INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1 + isinstance(error, PanformerError)
            rank, code = self._first_failure(own)
            if code == INTERRUPTED and self.is_first:
                raise KeyboardInterrupt from error
            if code == INTERRUPTED or rank != self.place.rank:
                raise SystemExit(code) from error
            raise

    def _first_failure(self, exit_code: int) -> tuple[int, int]:
        """Rank and exit code of the process that failed first; of this one, if no other did."""
        own = f"{self.place.rank} {exit_code}"
        try:
            first = self._store.compare_set("failure", "", own)
        except dist.DistError:
            first = own.encode()
        rank, code = first.split()
        return int(rank), int(code)


def _meet(place: Place) -> Store:
    try:
        timeout = timedelta(seconds=_MEETING_SECONDS)
        store, _, _ = next(iter(rendezvous("env://", place.rank, place.world_size, timeout=timeout)))
    except (dist.DistError, ValueError, RuntimeError) as error:
        raise PanformerError(
            f"the variables {', '.join(VARIABLES)} say that torchrun started this process, but the others are not "
            f"found ({str(error).splitlines()[0]}); unset them to run without torchrun"
        ) from error
    return PrefixStore("panformer", store)


def _device(options: ProcessOptions, place: Place) -> torch.device:
    """The device of this process: the GPU of its local rank, unless options say the CPU or one GPU by number."""
    device = device_of(options, place.local_rank)
    return torch.device("cuda", place.local_rank) if device == torch.device("cuda") else device


def check_options(options: ProcessOptions) -> None:
    """Check what was asked for against the processes that torchrun started, if it did.

    Raises:
        PanformerError: there are others on this machine than asked for, more than GPUs, or all on one GPU.
    """
    place = Place.of_this_process()
    if place is None:
        return
    count, there = place.local_world_size, torch.cuda.device_count()
    started = f"torchrun started {count} process{'es' * (count > 1)} on this machine"
    for name, asked in (("--gpus", options.gpus), ("--cpu-processes", options.cpu_processes)):
        if asked not in (None, count):
            raise PanformerError(f"{name} is {asked}, but {started}; give torchrun --nproc-per-node {asked}")
    if count > 1 and ":" in options.device:
        raise PanformerError(
            f"--device is {options.device!r}, one device, but {started}; leave it out for a GPU each, or say cpu"
        )
    on_gpus = options.cpu_processes is None and options.device != "cpu" and there > 0
    if on_gpus and count > there:
        raise PanformerError(
            f"{started}, which has {there} GPU{'s' * (there > 1)}; give torchrun --nproc-per-node {there}, or "
            "--device cpu"
        )
