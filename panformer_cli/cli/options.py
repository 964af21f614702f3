"""Options that several commands share."""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from panformer_cli.engine.distributed.runtime import Process, ProcessOptions
    from panformer_cli.models.layers.sampling import SamplingName
    from panformer_cli.reporting import Reporter
    from panformer_cli.submission.forms import FormName


INTERRUPTED = 130
"""Exit code after Ctrl-C."""
FORMS: tuple[FormName, ...] = ("coco", "cityscapes", "ade20k", "mapillary")


@dataclass(frozen=True)
class Submission:
    """A zip to write for a test server, and the server's form."""

    path: Path
    form: FormName


@dataclass(frozen=True)
class Compute:
    """What a command runs on.

    gpus: GPUs, one process each; None where the user did not say.
    cpu_processes: processes on the CPU; None where the user did not say. Not together with `gpus`.
    device: a torch device such as `cpu` or `cuda:1`; None for the GPU where there is one, else the CPU.
    sampling: implementation of the inner step of deformable attention.
    """

    gpus: int | None = None
    cpu_processes: int | None = None
    device: str | None = None
    sampling: SamplingName = "auto"

    def options(self) -> ProcessOptions:
        """The same for the engine, checked against this machine."""
        from panformer_cli.engine.distributed.runtime import ProcessOptions

        return ProcessOptions(self.gpus, self.cpu_processes, self.device or "auto", self.sampling)

    @contextlib.contextmanager
    def joined(self) -> Iterator[tuple[Process, Reporter]]:
        """Yield this process, in its process group if there is one, and its reporter: ranks other than 0 print nothing.

        Errors as `engine.distributed.group.joined`.
        """
        from panformer_cli.console import RichReporter
        from panformer_cli.engine.distributed.group import joined
        from panformer_cli.reporting import SilentReporter

        with joined(self.options()) as process:
            if process.is_first:
                yield process, RichReporter()
                sys.stdout.flush()  # the launcher may end this rank as soon as another one has left
                return
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                yield process, SilentReporter()

    def command(self, name: str, *words: str) -> str:
        """Return the command line that runs `panformer NAME WORDS` in the same processes as now."""
        from panformer_cli.engine.distributed.worker import Worker

        worker, program, own = Worker.of_environment(), ["panformer"], []
        if self.gpus is not None or self.cpu_processes is not None:
            own = ["--gpus", str(self.gpus)] if self.gpus else ["--cpu-processes", str(self.cpu_processes)]
        elif self.device is not None:
            own = ["--device", self.device]
        if self.sampling != "auto":
            own += ["--sampling", self.sampling]
        if worker is not None and (worker.nodes > 1 or not (self.gpus or self.cpu_processes)):
            nodes = ["--nnodes", str(worker.nodes), "..."] if worker.nodes > 1 else []
            program = ["torchrun", *nodes, "--nproc-per-node", str(worker.local_world_size), "-m", "panformer_cli"]
        return shlex.join([*program, name, *words, *own])


def compute_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--gpus`, `--cpu-processes`, `--device`, `--sampling`; the function gets them as `compute`, a `Compute`.

    If they ask for more than one process, the whole command line is started in that many, and each calls the function.
    """

    @click.option("--gpus", type=click.IntRange(min=1), metavar="N", help="Use N GPUs, with one process each.")
    @click.option("--cpu-processes", type=click.IntRange(min=1), metavar="N", help="Use N processes on the CPU.")
    @click.option("--device", metavar="D", help="cpu, cuda or cuda:1; by default the GPU where there is one.")
    @click.option(
        "--sampling",
        type=click.Choice(["auto", "portable", "gather", "cpu", "triton"]),
        default="auto",
        help="Force an implementation of deformable attention; auto takes the fastest.",
    )
    @functools.wraps(function)
    def with_compute(
        gpus: int | None, cpu_processes: int | None, device: str | None, sampling: SamplingName, **others: Any
    ) -> Any:
        if gpus is not None and cpu_processes is not None:
            raise click.UsageError("--gpus and --cpu-processes exclude each other: give one of them.")
        if device is not None and (gpus is not None or cpu_processes is not None):
            raise click.UsageError("--device names one device: leave it out with --gpus or --cpu-processes.")
        return _in_processes(function, Compute(gpus, cpu_processes, device, sampling), others)

    return with_compute


def cpu_processes_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--cpu-processes` to a command that needs no GPU; as `compute_options`."""

    @click.option(
        "--cpu-processes",
        type=click.IntRange(min=1),
        metavar="N",
        help="Share the images among N processes. [default: 1]",
    )
    @functools.wraps(function)
    def with_processes(cpu_processes: int | None, **others: Any) -> Any:
        device = "cpu" if cpu_processes is None else None
        return _in_processes(function, Compute(cpu_processes=cpu_processes, device=device), others)

    return with_processes


def _in_processes(function: Callable[..., Any], compute: Compute, others: dict[str, Any]) -> Any:
    """Call a command's function, or start the whole command line again in as many processes as it asks for."""
    processes = compute.gpus or compute.cpu_processes or 1
    if processes == 1 or _is_launched():
        return function(compute=compute, **others)
    compute.options()  # checked before any process starts
    return _launch(click.get_current_context().find_root().obj, processes)


def _is_launched() -> bool:
    from panformer_cli.engine.distributed.worker import Worker

    return Worker.of_environment() is not None


def _launch(words: Sequence[str], processes: int) -> int:
    from panformer_cli.engine.distributed.launcher import launch

    return launch(words, processes)


def speed_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--batch-size`, `--precision` and `--fast`; the function gets `batch_size` and `precision`."""

    @click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Images of equal size per forward pass, at most; does not change the results.",
    )
    @click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16", "fp16"]),
        help="Precision of the network; bf16 and fp16 are faster on supported hardware and change results slightly. "
        "[default: fp32]",
    )
    @click.option("--fast", is_flag=True, help="Use the fastest precision that the device supports, such as bf16.")
    @functools.wraps(function)
    def with_speed(precision: str | None, fast: bool, **others: Any) -> Any:
        if fast and precision is not None:
            raise click.UsageError("--fast chooses a precision: leave it out with --precision.")
        return function(precision="fast" if fast else precision or "fp32", **others)

    return with_speed


def submission_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--submission` and `--form`; the function gets `submission`, a `Submission` or None, its name checked."""

    @click.option(
        "--submission",
        "archive",
        type=click.Path(path_type=Path),
        metavar="FILE.zip",
        help="Pack the predictions for a test server.",
    )
    @click.option("--form", type=click.Choice(FORMS), help="Format of the test server. [default: coco]")
    @functools.wraps(function)
    def with_submission(archive: Path | None, form: FormName | None, **others: Any) -> Any:
        if archive is None:
            if form is not None:
                raise click.UsageError("--form belongs to --submission FILE.zip: give both, or neither.")
            return function(submission=None, **others)
        from panformer_cli.submission.forms import FORMS as KNOWN

        submission = Submission(archive, form or "coco")
        KNOWN[submission.form].check_name(archive)
        return function(submission=submission, **others)

    return with_submission


def write_submission(submission: Submission, results: Path, reporter: Reporter) -> None:
    """Pack what is in the folder of results, as the options say."""
    from panformer_cli.submission.forms import FORMS as KNOWN
    from panformer_cli.submission.packing import write_submission as write

    images = write(results, submission.path, KNOWN[submission.form], reporter)
    reporter.message(f"{images} images packed in {submission.path}")
