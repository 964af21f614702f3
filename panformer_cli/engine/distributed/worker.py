"""The environment variables of a distributed worker, set by torchrun or `launcher`; no torch import here."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from dataclasses import dataclass
from threading import Thread

from panformer_cli.errors import PanformerError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""A process with all of these variables is a distributed worker.

https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
"""
RESTARTS = "TORCHELASTIC_RESTART_COUNT"
"""Environment variable with the number of times that the launcher of this machine has restarted its workers."""
MAX_RESTARTS = "TORCHELASTIC_MAX_RESTARTS"
"""Environment variable with the number of times that it may do so."""
LAUNCHER = "PANFORMER_LAUNCHER"
"""Environment variable with the process id of `launcher.launch`."""
LAUNCHED_AT = "PANFORMER_LAUNCHED_AT"
"""Environment variable with the time at which `launcher.launch` began, in seconds since the epoch."""
ORPHAN_SECONDS = 10.0
"""Time to save and end for a worker whose launcher was killed."""
_CHECK_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


def seconds_since_launch() -> float:
    """Return the time since the launcher began, also after it restarted this process; 0 without a launcher."""
    began = os.environ.get(LAUNCHED_AT)
    return max(0.0, time.time() - float(began)) if began else 0.0


def restarts_failures() -> bool:
    """Return whether a launcher started this process and starts it again when it fails (`--max-restarts`).

    False once all restarts are used up: then the exit code is the same as without a launcher.
    """
    return LAUNCHER in os.environ and int(os.environ.get(RESTARTS, 0)) < int(os.environ.get(MAX_RESTARTS, 0))


@dataclass(frozen=True)
class Worker:
    """A distributed worker.

    Attributes:
        rank: Rank on all machines, from 0.
        world_size: Number of workers on all machines.
        local_rank: Rank on this machine, from 0.
        local_world_size: Number of workers on this machine.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int

    @classmethod
    def of_environment(cls) -> Worker | None:
        """Return the worker that the environment describes; None for a single process.

        Raises:
            PanformerError: The variables contradict each other.
        """
        if not all(os.environ.get(name) for name in VARIABLES):
            return None
        words = [os.environ[name] for name in VARIABLES[:3]]
        words.append(os.environ.get("LOCAL_WORLD_SIZE") or words[1])  # only torchrun itself sets it
        try:
            worker = cls(*map(int, words))
            int(os.environ["MASTER_PORT"])
        except ValueError:
            worker = None
        if worker is None or not (
            0 <= worker.rank < worker.world_size and 0 <= worker.local_rank < worker.local_world_size
        ):
            found = ", ".join(f"{name}={os.environ[name]}" for name in VARIABLES)
            raise PanformerError(
                f"the environment has {found}; expected ranks from 0 to the number of processes - 1, as torchrun sets "
                "them; unset these variables to run without torchrun"
            )
        return worker

    @property
    def nodes(self) -> int:
        """The number of machines."""
        return max(1, self.world_size // self.local_world_size)


def end_with_launcher() -> None:
    """End this worker if torch's launcher is killed, which could then not end it: SIGTERM, and after a while SIGKILL.

    After SIGTERM a run saves, but a process that waits for another rank may never get there. Linux sends SIGTERM
    immediately; on other systems, and for SIGKILL, a thread watches the launcher.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    launcher = int(os.environ.get(LAUNCHER) or os.getppid())
    Thread(target=_watch, args=(launcher,), daemon=True).start()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_CHECK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_SECONDS)
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
