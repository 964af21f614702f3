"""Run functions and command lines in several processes on the CPU."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from panformer_cli.engine.distributed.group import joined
from panformer_cli.engine.distributed.runtime import ProcessOptions
from tests.conftest import REPOSITORY

PRELOADED = [
    "panformer_cli.engine.training.train",
    "panformer_cli.engine.predict",
    "panformer_cli.engine.evaluation.evaluate",
]
"""What the fork server imports once, so that the processes forked from it do not: this takes seconds."""


def in_processes(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what `work(process, *arguments)` returns, by rank; all values must be picklable.

    Each process is new and has as many threads as this one.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    multiprocessing.set_forkserver_preload(PRELOADED)
    config = LaunchConfig(1, 1, count, run_id=f"tests-{os.getpid()}", rdzv_backend="c10d", rdzv_endpoint="localhost:0")
    config.max_restarts = 0
    config.start_method = "forkserver"
    with ThreadPoolExecutor(1) as pool:  # in the main thread torch would replace the signal handlers permanently
        launched = elastic_launch(config, _joined)
        results = pool.submit(launched, torch.get_num_threads(), work, arguments).result()
    return [results[rank] for rank in range(count)]


def _joined(threads: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    torch.set_num_threads(threads)
    with joined(ProcessOptions(device="cpu")) as process:
        return work(process, *arguments)


def start(*words: object, patch: Path | None = None) -> subprocess.Popen[str]:
    """Start `python -m WORDS`, with as many threads per process as here.

    patch: a folder with a `sitecustomize.py`, which every process of it imports first.
    """
    path = [str(folder) for folder in (patch, REPOSITORY) if folder]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", *map(str, words)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True)
    _started.append(process)
    return process


_started: list[subprocess.Popen[str]] = []
"""Processes that `start` started in this test."""


def kill_started() -> None:
    """End the processes that a failed test left running. SIGTERM first, since torchrun's workers have own sessions."""
    while _started:
        process = _started.pop()
        with suppress(ProcessLookupError, PermissionError):  # the id may belong to another process by now
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=30)
            os.killpg(process.pid, signal.SIGKILL)


def torchrun(*words: object, nproc: int = 2, nodes: int = 1, port: int = 0) -> subprocess.Popen[str]:
    """Start `torchrun ... panformer WORDS`."""
    launcher = ["torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={nproc}"]
    meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", f"--rdzv-id=test-{port}"]
    return start(*launcher, *meeting, "-m", "panformer_cli", *words)
