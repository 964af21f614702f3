"""Run a command in several processes, on one or several machines, with torch's elastic launcher."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from threading import Thread
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousParameters, RendezvousTimeoutError
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler
from torch.distributed.elastic.utils import store as store_util

from panformer_cli.engine.distributed.layout import Layout
from panformer_cli.engine.distributed.signals import SAME_SECONDS, signals_to
from panformer_cli.engine.distributed.worker import LAUNCHED_AT, LAUNCHER
from panformer_cli.errors import INTERRUPTED, INVALID, PanformerError
from panformer_cli.reporting import Reporter

_POLL_SECONDS = 0.1
_JOIN_SECONDS = 600
"""Time that a machine waits for the others."""
_LEAVE_SECONDS = 15
"""Time that a launcher stays for the other machines after its own processes have failed or stopped."""


def launch(words: Sequence[str], layout: Layout, reporter: Reporter) -> int:
    """Run the command line `panformer WORDS` in several processes and return their exit code.

    Stop signals are forwarded to all processes on this machine, which may take any time to save; a second SIGINT kills
    them. If a process fails, all are ended, and started again up to `layout.max_restarts` times, unless its input is
    invalid.

    Raises:
        PanformerError: A process was killed, or the other machines cannot be reached.
        KeyboardInterrupt: A signal ended the processes without a report.
    """
    for name in ("elastic", "launcher"):
        logging.getLogger(f"torch.distributed.{name}").setLevel(logging.CRITICAL)
    # The processes share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // layout.processes)))
    os.environ[LAUNCHER], os.environ[LAUNCHED_AT] = str(os.getpid()), str(time.time())
    try:
        return _run_with_restarts(words, layout, reporter)
    finally:
        del os.environ[LAUNCHER], os.environ[LAUNCHED_AT]


def _run_with_restarts(words: Sequence[str], layout: Layout, reporter: Reporter) -> int:
    """Run agents until one ends without losing the other machines; each loss counts as a restart."""
    restarts = layout.max_restarts
    while True:
        agent: Agent | None = None
        try:
            agent = _agent(words, layout, restarts, reporter)
            return _run(agent, layout)
        except (RendezvousError, dist.DistError) as error:
            restarts = agent.restarts_after_loss if agent else restarts - 1
            if restarts < 0:
                raise PanformerError(_unreachable(layout, error)) from error
            reporter.warn(f"{_unreachable(layout, error)}; trying again")
            time.sleep(1)


def _run(agent: Agent, layout: Layout) -> int:
    """Run an agent to its end, forward signals to its workers, and return their exit code."""
    signals, sent = list[tuple[int, float]](), 0
    with signals_to(lambda number, _: signals.append((number, time.monotonic()))):
        # The agent runs in a thread so that it does not handle signals: it kills workers that take over 30 s to save.
        running = _in_thread(agent)
        while wait([running], _POLL_SECONDS).not_done:
            if sent == len(signals):
                continue
            agent.stop_restarting()
            if agent.is_waiting:  # for other machines, for up to `_JOIN_SECONDS`
                raise KeyboardInterrupt
            # Workers have their own sessions, so they get no signals from the terminal.
            if workers := agent.worker_ids():
                _send(signal.SIGKILL if _is_second_interrupt(signals[: sent + 1]) else signals[sent][0], workers)
                sent += 1
    try:
        result = running.result()
    except (RendezvousError, dist.DistError):
        if signals:
            raise KeyboardInterrupt from None
        raise
    return _exit_code(result, layout.processes, interrupted=bool(signals))


def _in_thread(agent: Agent) -> Future[RunResult]:
    """Run the agent in a thread that does not keep this process alive."""
    future: Future[RunResult] = Future()

    def run() -> None:
        try:
            future.set_result(agent.run())
        except BaseException as error:  # the caller raises it
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


class Agent(LocalElasticAgent):
    """An elastic agent that restarts what failed, but not what was stopped.

    Args:
        spec: The processes.
        nodes: Number of machines.
        reporter: Receives a warning for each restart.
    """

    def __init__(self, spec: WorkerSpec, nodes: int, reporter: Reporter) -> None:
        super().__init__(spec, DefaultLogsSpecs(log_dir=os.devnull))
        self._nodes, self._reporter = nodes, reporter
        self._has_waited = False

    @property
    def restarts_after_loss(self) -> int:
        """Restarts that are left if the other machines were lost; -1 if there was none."""
        is_counted = self._worker_group.state == WorkerState.STOPPED  # they were lost during a restart
        return int(self._remaining_restarts) - (not is_counted)

    @property
    def is_waiting(self) -> bool:
        """Whether no processes run, because the agent waits for other machines."""
        return self._worker_group.state in (WorkerState.INIT, WorkerState.STOPPED)

    def stop_restarting(self) -> None:
        self._remaining_restarts = 0

    def worker_ids(self) -> list[int]:
        """Return the ids of the running processes."""
        if self._worker_group.state != WorkerState.HEALTHY:
            return []
        return [worker.id for worker in self._worker_group.workers if worker.id is not None]

    def run(self, role: str = "panformer") -> RunResult:
        result: RunResult = super().run(role)
        if result.is_failed():
            self._is_with_other_machines()
        return result

    def _is_with_other_machines(self) -> bool:
        """Wait until the processes of all machines have ended; return False if a machine is gone.

        The first machine must stay until then, because it hosts the store that all processes use to end.
        """
        if self._nodes == 1 or self._has_waited:
            return True
        self._has_waited = True
        try:
            store_util.barrier(self._worker_group.store, self._nodes, "panformer/end", _LEAVE_SECONDS)
        except (RuntimeError, ValueError):
            return False
        return True

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        # Each start of the workers needs a new store: keys of an earlier one would mislead them, and the store of a
        # machine that was killed is gone.
        handler: Any = worker_group.spec.rdzv_handler
        handler._bootstrap_store_info = None
        self._has_waited = False
        super()._rendezvous(worker_group)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed() and any(failure.exitcode == INVALID for failure in result.failures.values()):
            self.stop_restarting()  # it would fail again
        if result.is_failed() and self._remaining_restarts:
            cause = _cause(_first(result), worker_group.spec.local_world_size)
            if self._nodes > 1:
                cause = f"on this machine, {cause}"
            if any(failure.exitcode == INTERRUPTED for failure in result.failures.values()):
                # They also stop, after they have saved, if the launcher of another machine is killed.
                if self._is_with_other_machines():
                    self.stop_restarting()
                    return result
                cause = "another machine is gone"
            total = worker_group.spec.max_restarts
            number = total - self._remaining_restarts + 1
            self._reporter.warn(f"{cause}; restarting all processes ({number} of {total})")
        return result


def _agent(words: Sequence[str], layout: Layout, restarts: int, reporter: Reporter) -> Agent:
    options: dict[str, Any] = {}
    if layout.rendezvous is not None:
        options = {"join_timeout": _JOIN_SECONDS, "read_timeout": _JOIN_SECONDS, "is_host": str(layout.node_rank == 0)}
    host = layout.endpoint.rpartition(":")[0].strip("[]")
    # Ranks follow the order of the addresses. Only that of the first machine is used, as the address of the store.
    address = host if layout.node_rank == 0 else f"~{layout.node_rank:09d}"
    where = RendezvousParameters(
        "c10d", layout.endpoint, _run_id(layout), layout.nodes, layout.nodes, local_addr=address, **options
    )
    spec = WorkerSpec(
        role="panformer",
        local_world_size=layout.processes,
        rdzv_handler=get_rendezvous_handler(where),
        entrypoint=sys.executable,
        args=("-m", "panformer_cli", *(word.replace("$", "$$") for word in words)),  # the agent expands ${local_rank}
        max_restarts=restarts,
        monitor_interval=_POLL_SECONDS,
        local_addr=host,
    )
    return Agent(spec, layout.nodes, reporter)


def _run_id(layout: Layout) -> str:
    return f"panformer-{os.getpid()}" if layout.nodes == 1 else f"panformer-{layout.endpoint}-{layout.nodes}"


def _send(number: int, workers: list[int]) -> None:
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _is_second_interrupt(signals: Sequence[tuple[int, float]]) -> bool:
    """Return whether the last signal is a SIGINT that was sent again, not twice at the same time."""
    interrupts = [when for number, when in signals if number == signal.SIGINT]
    return signals[-1][0] == signal.SIGINT and interrupts[-1] - interrupts[0] >= SAME_SECONDS


def _exit_code(result: RunResult, processes: int, interrupted: bool) -> int:
    """Return the exit code of the first worker that failed, which has reported its error; otherwise 0."""
    if not result.is_failed():
        return 0
    failure = _first(result)
    if failure.exitcode > 0:
        return int(failure.exitcode)
    if interrupted:
        raise KeyboardInterrupt
    cause = _cause(failure, processes)
    if failure.exitcode == -signal.SIGKILL:
        raise PanformerError(f"{cause}; use fewer processes or smaller images")
    raise PanformerError(f"{cause}; run the command in one process to find out why")


def _first(result: RunResult) -> ProcessFailure:
    return min(result.failures.values(), key=lambda failure: failure.timestamp)


def _cause(failure: ProcessFailure, processes: int) -> str:
    process = f"process {failure.local_rank} of {processes}"
    if failure.exitcode == -signal.SIGKILL:
        return f"{process} was killed, possibly because the system ran out of memory"
    if failure.exitcode < 0:
        return f"{process} was terminated by {signal.Signals(-failure.exitcode).name}"
    return f"{process} failed with exit code {failure.exitcode}"


def _unreachable(layout: Layout, error: Exception) -> str:
    reason = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, RendezvousTimeoutError):
        reason = f"they did not come within {_JOIN_SECONDS // 60} minutes"
    if layout.node_rank == 0:
        return (
            f"machine 0 cannot wait for the other machines at {layout.endpoint} ({reason}); use a free port of its own"
        )
    return (
        f"the other machines cannot be reached at {layout.endpoint} ({reason}); start the same command on all of them"
    )
