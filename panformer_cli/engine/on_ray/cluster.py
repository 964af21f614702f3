"""The cluster: connecting to it, and how many actors it has room for."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from panformer_cli.engine.on_ray.options import RayOptions
from panformer_cli.errors import PanformerError
from panformer_cli.wording import counted

_CPUS_OF_AN_ACTOR = 4


@dataclass(frozen=True)
class Actors:
    """How many actors there are, and what each of them has.

    Attributes:
        count: Number of actors.
        cpus: CPUs and threads of each.
        gpus: GPUs of each, a share of one or one; 0 on the CPU.
    """

    count: int
    cpus: int
    gpus: float

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"

    @classmethod
    def of(cls, options: RayOptions, cpus: int, gpus: int) -> Actors:
        """Return the actors for the options and a cluster with so many CPUs and GPUs.

        Raises:
            PanformerError: The cluster has not enough of them, so that Ray would wait for ever.
        """
        on_gpu = options.device == "cuda" or bool(options.gpus) or (options.device == "auto" and gpus > 0)
        share = (options.gpus or 1.0) if on_gpu and options.gpus != 0 else 0.0
        most = int(gpus / share) if share else max(1, cpus // _CPUS_OF_AN_ACTOR)
        count = options.actors or max(1, most)
        own = options.cpus or max(1, cpus // count)
        # A GPU cannot be split between two actors of which each has more than half of it.
        room = gpus * int(1 / share) if share else count
        if count > room or count * own > cpus:
            each, needed = _resources(own, share), _resources(count * own, count * share)
            raise PanformerError(
                f"{counted(count, 'actor')} of {each} need {needed}, but the cluster has {counted(cpus, 'CPU')} and "
                f"{counted(gpus, 'GPU')}; use smaller values of --actors, --actor-cpus or --actor-gpus"
            )
        return cls(count, own, share)


def _resources(cpus: int, gpus: float) -> str:
    text = counted(cpus, "CPU")
    return f"{text} and {gpus:g} {'GPU' if gpus == 1 else 'GPUs'}" if gpus else text


def check_installed() -> None:
    """Raise PanformerError if Ray or pyarrow is not installed."""
    for name in ("ray", "pyarrow"):
        if find_spec(name) is None:
            raise PanformerError(
                f"--engine ray needs the package {name}, which is not installed; install it with: "
                "pip install 'panformer[ray]'"
            )


@contextmanager
def connected() -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster.

    It is that of the environment variable RAY_ADDRESS, else the one that `ray start` started on this machine, else a
    new one of this machine alone, which is shut down at the end.

    Raises:
        PanformerError: The cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to Ray's developers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # warnings about what Ray Data does itself
    ray = import_module("ray")
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise PanformerError(
            f"no connection to a Ray cluster ({' '.join(str(error).split())}); check RAY_ADDRESS, or unset it to use "
            "this machine alone"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
