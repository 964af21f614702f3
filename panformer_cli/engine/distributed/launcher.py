"""Start a command in several processes of this machine, with torch's elastic launcher."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import FrameType

from torch.distributed.elastic.agent.server.api import RunResult, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from panformer_cli.engine.distributed.signals import signals_to
from panformer_cli.errors import PanformerError

_POLL_SECONDS = 0.1


def launch(words: Sequence[str], processes: int) -> int:
    """Run the command line `panformer WORDS` in several processes and return their exit code.

    SIGINT and SIGTERM are passed on to all of them; a second SIGINT kills them. A failure of one ends all.

    Raises:
        PanformerError: A process was killed.
        KeyboardInterrupt: A signal came, and the processes ended without a report.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    agent = _agent(words, processes)
    signals = _PassedOn(agent)
    # In a thread, the agent leaves signals to us: it would kill workers that need more than 30 seconds to save.
    with _shared_cores(processes), signals_to(signals.receive), ThreadPoolExecutor(1) as pool:
        running: Future[RunResult] = pool.submit(agent.run)
        while wait([running], _POLL_SECONDS).not_done:
            signals.pass_on()
    return _exit_code(running.result(), processes, interrupted=signals.received > 0)


def _agent(words: Sequence[str], processes: int) -> LocalElasticAgent:
    where = RendezvousParameters("c10d", "localhost:0", f"panformer-{os.getpid()}", 1, 1, local_addr="localhost")
    spec = WorkerSpec(
        role="panformer",
        local_world_size=processes,
        rdzv_handler=get_rendezvous_handler(where),
        entrypoint=sys.executable,
        args=("-m", "panformer_cli", *(word.replace("$", "$$") for word in words)),  # the agent fills in ${local_rank}
        max_restarts=0,
        monitor_interval=_POLL_SECONDS,
        local_addr="localhost",
    )
    return LocalElasticAgent(spec, DefaultLogsSpecs(log_dir=os.devnull))


class _PassedOn:
    """Signals for the workers, which are in sessions of their own and get none from the terminal.

    received: How many have come.
    """

    def __init__(self, agent: LocalElasticAgent) -> None:
        self._agent = agent
        self._pending: list[int] = []
        self.received = 0

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal of this process."""
        del frame
        self._pending.append(signal.SIGKILL if self.received and number == signal.SIGINT else number)
        self.received += 1

    def pass_on(self) -> None:
        """Send what came to all workers, once they are started."""
        workers = [worker.id for worker in self._agent.get_worker_group().workers if worker.id is not None]
        while workers and self._pending:
            number = self._pending.pop(0)
            for pid in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)


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


def _exit_code(result: RunResult, processes: int, interrupted: bool) -> int:
    """Return the exit code of the first worker that failed, which has reported why; otherwise 0."""
    if not result.is_failed():
        return 0
    failure = min(result.failures.values(), key=lambda failure: failure.timestamp)
    if failure.exitcode > 0:
        return failure.exitcode
    if interrupted:
        raise KeyboardInterrupt
    process = f"process {failure.local_rank} of {processes}"
    if failure.exitcode == -signal.SIGKILL:
        raise PanformerError(
            f"{process} was killed from outside, most often because memory ran short; use fewer processes or smaller "
            "images"
        )
    name = signal.Signals(-failure.exitcode).name
    raise PanformerError(f"{process} was ended by {name}; run the command in one process to find out why")
