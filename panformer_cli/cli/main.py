"""The program `panformer`: runs a command and turns failures into one message and an exit code.

Exit codes: 0 success, 1 some inputs could not be used, 2 invalid usage or input, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import click

from panformer_cli import __version__
from panformer_cli.cli.groups import LazyGroup
from panformer_cli.cli.loading import announce_torch
from panformer_cli.cli.other_names import answer_to
from panformer_cli.errors import FAILED, INTERRUPTED, INVALID, PanformerError
from panformer_cli.verbosity import current, restored, seconds

if TYPE_CHECKING:
    from panformer_cli.engine.distributed.worker import Worker

_LOG = logging.getLogger(__name__)

DISTRIBUTED = {"demo", "train", "evaluate", "predict"}
"""Commands that run in all processes of torchrun; the others run on rank 0 only."""
ON_RANK_0 = [["evaluate", "compare"], ["evaluate", "check-submission"]]
"""Subcommands of those commands that run on rank 0 only."""

# Errors of the operating system that users can fix; any use of a path may raise them.
REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG}


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="panformer", message="%(prog)s %(version)s")
def program() -> None:
    """Panoptic segmentation with Panoptic SegFormer.

    Start with `panformer demo`. Run `panformer COMMAND --help` for the options of a command.

    \b
    panformer predict photos --out predictions
    panformer doctor
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line `arguments`, by default those of the process, and exit."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    """Run `arguments` in this process, which may be one of several ranks, and return the exit code."""
    from panformer_cli.engine.distributed.worker import Worker, end_with_launcher

    end_with_launcher()
    words = list(sys.argv[1:] if arguments is None else arguments)
    run = partial(program.main, words, obj=words, prog_name="panformer", standalone_mode=False)
    try:
        worker = Worker.of_environment()
    except PanformerError as error:
        return _report(2, str(error))
    on_rank_0 = DISTRIBUTED.isdisjoint(words[:1]) or words[:2] in ON_RANK_0
    if worker is not None and worker.rank > 0 and on_rank_0:
        return 0
    if worker is None and arguments is None:  # the program itself, not a caller in Python
        announce_torch()
    with restored():
        exit_code = _exit_code(run, worker)
        _LOG.debug("Exit code %d after %.1f s", exit_code, seconds())
    return exit_code


def _exit_code(run: Callable[[], Any], worker: Worker | None) -> int:
    """Call `run` and return its exit code; report its failure, unless another rank does."""
    try:
        result = run()
        sys.stdout.flush()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except (Exception, KeyboardInterrupt) as error:
        explained = _explained(error)
        if worker is not None and not _reports_failure(worker, error, is_bug=explained is None):
            return explained[0] if explained else 1
        if explained is None:
            current().record("ERROR", "".join(traceback.format_exception(error)))
            raise
        return _report(*explained)
    return result if isinstance(result, int) else 0


def _explained(error: BaseException) -> tuple[int, str] | None:
    """Return exit code and message of a failure that users can fix; None for a bug."""
    from panformer_cli.engine.distributed.worker import restarts_failures

    if isinstance(error, PanformerError):
        return FAILED if error.may_pass and restarts_failures() else INVALID, str(error)
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "panformer"
        answer = answer_to(command, error.option_name) if isinstance(error, click.NoSuchOption) else None
        return 2, f"{answer or error.format_message()} See `{command} --help`."
    if isinstance(error, click.ClickException):
        return 2, error.format_message()
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        interrupt = (error.__cause__ or "") if isinstance(error, click.Abort) else error  # click wraps Ctrl-C
        return INTERRUPTED, str(interrupt) or "Stopped."
    if isinstance(error, BrokenPipeError):  # the reader of stdout exited, as `head` does
        return 1, ""
    if isinstance(error, OSError) and error.errno in REFUSALS and error.filename is not None:
        return 2, f"{error.filename}: {error.strerror}; check the path, its permissions and the free disk space"
    return None


def _reports_failure(worker: Worker, error: BaseException, is_bug: bool) -> bool:
    from panformer_cli.engine.distributed.group import reports_failure

    return reports_failure(worker, error, is_bug)


def _report(exit_code: int, message: str) -> int:
    """Print the message of a failure to stderr and return its exit code."""
    from panformer_cli.console import print_error

    if exit_code == INTERRUPTED:
        current().record("ERROR", message)
        click.echo(message, err=True)
    elif message:
        print_error(message)
    else:  # otherwise Python reports the closed pipe when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return exit_code
