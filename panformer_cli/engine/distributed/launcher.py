"""Run a command in several processes on this machine with torch's elastic launcher."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

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

    SIGINT and SIGTERM are forwarded to all of them; a second SIGINT kills them. If one fails, all are ended.

    Raises:
        PanformerError: A process was killed.
        KeyboardInterrupt: A signal ended the processes without a report.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # The processes share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    agent, signals, sent = _agent(words, processes), list[int](), 0
    # The agent runs in a thread so that it does not handle signals: it kills workers that take over 30 s to save.
    with signals_to(lambda number, _: signals.append(number)), ThreadPoolExecutor(1) as pool:
        running = pool.submit(agent.run)
        while wait([running], _POLL_SECONDS).not_done:
            # Workers have their own sessions, so they get no signals from the terminal.
            workers = [worker.id for worker in agent.get_worker_group().workers if worker.id is not None]
            if workers and sent < len(signals):
                _send(signal.SIGKILL if sent and signals[sent] == signal.SIGINT else signals[sent], workers)
                sent += 1
    return _exit_code(running.result(), processes, interrupted=bool(signals))


def _agent(words: Sequence[str], processes: int) -> LocalElasticAgent:
    where = RendezvousParameters("c10d", "localhost:0", f"panformer-{os.getpid()}", 1, 1, local_addr="localhost")
    spec = WorkerSpec(
        role="panformer",
        local_world_size=processes,
        rdzv_handler=get_rendezvous_handler(where),
        entrypoint=sys.executable,
        args=("-m", "panformer_cli", *(word.replace("$", "$$") for word in words)),  # the agent expands ${local_rank}
        max_restarts=0,
        monitor_interval=_POLL_SECONDS,
        local_addr="localhost",
    )
    return LocalElasticAgent(spec, DefaultLogsSpecs(log_dir=os.devnull))


def _send(number: int, workers: list[int]) -> None:
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _exit_code(result: RunResult, processes: int, interrupted: bool) -> int:
    """Return the exit code of the first worker that failed, which has reported its error; otherwise 0."""
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
            f"{process} was killed, possibly because the system ran out of memory; use fewer processes or smaller "
            "images"
        )
    name = signal.Signals(-failure.exitcode).name
    raise PanformerError(f"{process} was terminated by {name}; run the command in one process to find out why")
