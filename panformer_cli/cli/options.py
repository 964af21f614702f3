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

from panformer_cli.cli.option_group import option_group
from panformer_cli.verbosity import current
from panformer_cli.wording import counted

if TYPE_CHECKING:
    from panformer_cli.engine.distributed.layout import Layout
    from panformer_cli.engine.distributed.runtime import Process, ProcessOptions
    from panformer_cli.engine.precision import Precision, PrecisionChoice
    from panformer_cli.models.layers.sampling import SamplingName
    from panformer_cli.reporting import Reporter
    from panformer_cli.submission.forms import FormName


json_option = click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
colors_option = click.option(
    "--colors",
    "palette",
    type=click.Choice(["standard", "safe"]),
    default="standard",
    help="Colors of the categories: those of the data set or of COCO, or colors that are safe for red-green color "
    "blindness. [default: standard]",
)
FORMS: tuple[FormName, ...] = ("coco", "cityscapes", "ade20k", "mapillary")


@dataclass(frozen=True)
class Submission:
    """A zip file to write for a test server, and the format that the server expects."""

    path: Path
    form: FormName


@dataclass(frozen=True)
class Speed:
    """How fast the network runs.

    Attributes:
        batch_size: Maximum number of equally sized images per forward pass, 1 or more.
        precision: Precision of the network.
    """

    batch_size: int
    precision: PrecisionChoice


@dataclass(frozen=True)
class Launching:
    """How `train` starts processes on several machines; see `engine.distributed.layout.Layout`.

    `node_rank` is None if it is not given.
    """

    nodes: int = 1
    node_rank: int | None = None
    rendezvous: str | None = None
    max_restarts: int = 0


@dataclass(frozen=True)
class Compute:
    """What a command runs on.

    Attributes:
        gpus: Number of GPUs, with one process each; None if not given.
        cpu_processes: Number of processes on the CPU; None if not given. Excludes `gpus`.
        device: torch device such as `cpu` or `cuda:1`; None for the GPU if there is one, else the CPU.
        sampling: Implementation of deformable sampling.
        launching: Machines and restarts.
    """

    gpus: int | None = None
    cpu_processes: int | None = None
    device: str | None = None
    sampling: SamplingName = "auto"
    launching: Launching = Launching()

    def options(self) -> ProcessOptions:
        """Return these options for the engine, checked against the hardware of this machine."""
        from panformer_cli.engine.distributed.runtime import ProcessOptions

        return ProcessOptions(self.gpus, self.cpu_processes, self.device or "auto", self.sampling)

    def layout(self) -> Layout:
        """Return the processes of this machine for the launcher.

        Raises:
            PanformerError: The options contradict each other.
        """
        from panformer_cli.engine.distributed.layout import Layout

        own = self.launching
        if own.nodes > 1 and own.node_rank is None:
            raise click.UsageError("--nodes needs --node-rank, the number of this machine from 0.")
        processes = self.gpus or self.cpu_processes or 1
        return Layout(processes, own.nodes, own.node_rank or 0, own.rendezvous, own.max_restarts)

    @contextlib.contextmanager
    def joined(self) -> Iterator[tuple[Process, Reporter]]:
        """Yield this process, in its process group if there is one, and a reporter. Only rank 0 prints.

        Raises the errors of `engine.distributed.group.joined`.
        """
        from panformer_cli.console import RichReporter
        from panformer_cli.engine.distributed.group import joined
        from panformer_cli.reporting import SilentReporter

        with joined(self.options()) as process:
            if process.is_first:
                yield process, RichReporter()
                sys.stdout.flush()  # the launcher may end this rank as soon as another one exits
                return
            with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
                yield process, SilentReporter()

    def command(self, name: str, *words: str) -> str:
        """Return the command line that runs `panformer NAME WORDS` on the same devices and processes."""
        from panformer_cli.engine.distributed.worker import LAUNCHER, Worker

        worker, program, own = Worker.of_environment(), ["panformer"], []
        if self.gpus is not None or self.cpu_processes is not None:
            own = ["--gpus", str(self.gpus)] if self.gpus else ["--cpu-processes", str(self.cpu_processes)]
        elif self.device is not None:
            own = ["--device", self.device]
        if self.sampling != "auto":
            own += ["--sampling", self.sampling]
        own += self.layout().options()
        if LAUNCHER in os.environ:
            worker = None  # started by these options, not by torchrun
        if worker is not None and (worker.nodes > 1 or not (self.gpus or self.cpu_processes)):
            nodes = ["--nnodes", str(worker.nodes), "..."] if worker.nodes > 1 else []
            program = ["torchrun", *nodes, "--nproc-per-node", str(worker.local_world_size), "-m", "panformer_cli"]
        return shlex.join([*program, name, *words, *own])


def compute_options(function: Callable[..., Any], first: Callable[..., None] | None = None) -> Callable[..., Any]:
    """Add `--gpus`, `--cpu-processes`, `--device` and `--sampling`; the function receives `compute`, a `Compute`.

    With more than one process, the whole command line is started in each of them, and each calls the function.

    Args:
        function: The command.
        first: Checks the other arguments of the command before processes are started and PyTorch is imported.
    """

    @click.option("--gpus", type=click.IntRange(min=1), metavar="N", help="Use N GPUs, with one process per GPU.")
    @click.option("--cpu-processes", type=click.IntRange(min=1), metavar="N", help="Use N processes on the CPU.")
    @click.option("--device", metavar="D", help="cpu, cuda, cuda:N or mps. [default: the GPU if there is one]")
    @click.option(
        "--sampling",
        type=click.Choice(["auto", "portable", "gather", "cpu", "triton"]),
        default="auto",
        help="Implementation of deformable attention; auto picks the fastest. [default: auto]",
    )
    @functools.wraps(function)
    def with_compute(
        gpus: int | None,
        cpu_processes: int | None,
        device: str | None,
        sampling: SamplingName,
        launching: Launching = Launching(),
        **others: Any,
    ) -> Any:
        if gpus is not None and cpu_processes is not None:
            raise click.UsageError("--gpus and --cpu-processes cannot be used together: use one of them.")
        if device is not None and (gpus is not None or cpu_processes is not None):
            raise click.UsageError("--device cannot be used with --gpus or --cpu-processes: leave it out.")
        if first is not None:
            first(**others)
        return _in_processes(function, Compute(gpus, cpu_processes, device, sampling, launching), others)

    return with_compute


def cpu_processes_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--cpu-processes` to a command that uses no GPU; the function receives `compute`, a `Compute`."""

    @click.option(
        "--cpu-processes",
        type=click.IntRange(min=1),
        metavar="N",
        help="Distribute the images over N processes. [default: 1]",
    )
    @functools.wraps(function)
    def with_processes(cpu_processes: int | None, **others: Any) -> Any:
        device = "cpu" if cpu_processes is None else None
        return _in_processes(function, Compute(cpu_processes=cpu_processes, device=device), others)

    return with_processes


def _in_processes(function: Callable[..., Any], compute: Compute, others: dict[str, Any]) -> Any:
    """Call a command's function, or start the whole command line again in several processes."""
    from panformer_cli.engine.distributed.layout import Layout

    layout = compute.layout()
    if _is_launched(layout) or layout == Layout():
        return function(compute=compute, **others)
    # Otherwise torch prints stack traces of C++ when another process is gone; the error itself is raised.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    compute.options()  # checked before any process starts
    return _launch(click.get_current_context().find_root().obj, layout)


def _is_launched(layout: Layout) -> bool:
    from panformer_cli.engine.distributed.layout import Layout
    from panformer_cli.engine.distributed.worker import LAUNCHER, Worker

    if Worker.of_environment() is None:
        return False
    if LAUNCHER not in os.environ and layout != Layout(layout.processes):
        raise click.UsageError(
            "--nodes, --rendezvous and --max-restarts start processes, but torchrun has started this one: leave them "
            "out, or run without torchrun."
        )
    return True


def _launch(words: Sequence[str], layout: Layout) -> int:
    from panformer_cli.console import RichReporter
    from panformer_cli.engine.distributed.launcher import launch

    return launch(words, layout, RichReporter())


@option_group(
    "speed",
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Maximum number of equally sized images per forward pass; changes results by rounding at most.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16", "fp16"]),
        help="Precision of the network; bf16 and fp16 are faster on supported hardware and change results slightly. "
        "[default: fp32]",
    ),
    click.option("--fast", is_flag=True, help="Use the fastest precision that the device supports, such as bf16."),
)
def speed_options(batch_size: int, precision: Precision | None, fast: bool) -> Speed:
    """Add `--batch-size`, `--precision` and `--fast`; the command receives `speed`."""
    if fast and precision is not None:
        raise click.UsageError("--fast and --precision cannot be used together: use one of them.")
    return Speed(batch_size, "fast" if fast else precision or "fp32")


@option_group(
    "submission",
    click.option(
        "--submission",
        "archive",
        type=click.Path(path_type=Path),
        metavar="FILE.zip",
        help="Pack the predictions into a zip file for a test server.",
    ),
    click.option("--form", type=click.Choice(FORMS), help="Format of the test server. [default: coco]"),
)
def submission_options(archive: Path | None, form: FormName | None) -> Submission | None:
    """Add `--submission` and `--form`; the command receives `submission`, which is valid, or None."""
    if archive is None:
        if form is not None:
            raise click.UsageError("--form needs --submission FILE.zip: use both or neither.")
        return None
    from panformer_cli.submission.forms import FORMS as KNOWN

    submission = Submission(archive, form or "coco")
    KNOWN[submission.form].check_name(archive)
    return submission


def announcer(as_json: bool, reporter: Reporter) -> Callable[[str], None]:
    """Return a function that prints a line before the results: on stderr if those are JSON, not at all with --quiet."""
    return reporter.message if as_json or current().quiet else click.echo


def hint(text: str) -> None:
    """Print what the user can do next, unless the command is quiet."""
    if not current().quiet:
        click.echo(text)


def write_submission(submission: Submission, results: Path, reporter: Reporter) -> None:
    """Pack the predictions in the results folder into the zip file of a submission."""
    from panformer_cli.submission.forms import FORMS as KNOWN
    from panformer_cli.submission.packing import write_submission as write

    images = write(results, submission.path, KNOWN[submission.form], reporter)
    reporter.message(f"Packed {counted(images, 'image')} into {submission.path}")
