"""The program `panformer`: finds the command, and turns what goes wrong into one line and an exit code.

Exit codes: 0 done, 1 done in part (some inputs could not be used), 2 a mistake in what was asked, 130 stopped by
Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import click

from panformer_cli import __version__
from panformer_cli.cli.groups import LazyGroup
from panformer_cli.errors import PanformerError

if TYPE_CHECKING:
    from panformer_cli.engine.distributed.torchrun import Place

# What the system refuses for a reason outside of the program, wherever a path is first touched.
REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG}


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="panformer", message="%(prog)s %(version)s")
def program() -> None:
    """Panoptic segmentation with Panoptic SegFormer.

    Start with `panformer demo`. `panformer COMMAND --help` tells all about a command.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line `arguments` (those of the process by default) and exit."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    """The exit code of `arguments`, run by this process, or by the first of those that torchrun started."""
    from panformer_cli.engine.distributed.torchrun import Place

    run = partial(program.main, arguments, prog_name="panformer", standalone_mode=False)
    try:
        place = Place.of_this_process()
    except PanformerError as error:
        return _fail(str(error))
    return _exit_code(run if place is None else partial(_run_in_team, place, run))


def _run_in_team(place: Place, run: Callable[[], Any]) -> int:
    from panformer_cli.engine.distributed.team import joined_team

    with joined_team(place) as team:
        team.exit_code = _exit_code(run if team.is_first else team.help)
    return team.exit_code


def _exit_code(run: Callable[[], Any]) -> int:
    """The exit code of `run`, which may return one; what a person can mend is said in one line on stderr."""
    try:
        result = run()
        sys.stdout.flush()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except PanformerError as error:
        return _fail(str(error))
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "panformer"
        return _fail(f"{error.format_message()} See `{command} --help`.")
    except click.ClickException as error:
        return _fail(error.format_message())
    except (click.Abort, KeyboardInterrupt) as error:
        interrupt = (error.__cause__ or "") if isinstance(error, click.Abort) else error  # click wraps Ctrl-C
        click.echo(str(interrupt) or "Stopped.", err=True)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does. Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in REFUSALS or error.filename is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}; check the path, its permissions and the space on the disk")
    return result if isinstance(result, int) else 0


def _fail(message: str) -> int:
    from panformer_cli.console import print_error

    print_error(message)
    return 2
