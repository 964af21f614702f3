"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from panformer_cli.engine.runtime import ProcessOptions


@dataclass(frozen=True)
class Compute:
    """What a command runs on.

    gpus: GPUs, one process each; None where the user did not say.
    cpu_processes: processes on the CPU; None where the user did not say. Not together with `gpus`.
    device: a torch device such as `cpu` or `cuda:1`; None for the GPU where there is one, else the CPU.
    """

    gpus: int | None
    cpu_processes: int | None
    device: str | None

    def processes(self) -> ProcessOptions:
        """The same for the engine, checked against this machine."""
        from panformer_cli.engine.runtime import ProcessOptions

        return ProcessOptions(self.gpus, self.cpu_processes, self.device or "auto")


def compute_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--gpus`, `--cpu-processes` and `--device`; the function gets them as `compute`, a `Compute`."""

    @click.option("--gpus", type=click.IntRange(min=1), metavar="N", help="Use N GPUs, with one process each.")
    @click.option("--cpu-processes", type=click.IntRange(min=1), metavar="N", help="Use N processes on the CPU.")
    @click.option("--device", metavar="D", help="cpu, cuda or cuda:1; by default the GPU where there is one.")
    @functools.wraps(function)
    def with_compute(gpus: int | None, cpu_processes: int | None, device: str | None, **others: Any) -> Any:
        if gpus is not None and cpu_processes is not None:
            raise click.UsageError("--gpus and --cpu-processes exclude each other: give one of them.")
        if device is not None and (gpus is not None or cpu_processes is not None):
            raise click.UsageError("--device names one device: leave it out with --gpus or --cpu-processes.")
        return function(compute=Compute(gpus, cpu_processes, device), **others)

    return with_compute
