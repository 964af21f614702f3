"""The program `panformer`: finds the command, and turns what goes wrong into one line and an exit code.

Exit codes: 0 done, 1 done in part (some inputs could not be used), 2 a mistake in what was asked, 130 stopped by
Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import click

from panformer_cli import __version__
from panformer_cli.errors import PanformerError

if TYPE_CHECKING:
    from panformer_cli.engine.torchrun import Place

# Name and one line of help of every command: `panformer --help` shows them without an import. The command `a-b` is the
# function `a_b` of the module `a_b` of this package.
COMMANDS = {
    "demo": "A first run on generated scenes: prepare, train, evaluate, predict, draw.",
    "prepare-data": "Convert, check, repair or divide a data set, or generate scenes.",
    "train": "Train a model from a recipe.",
    "evaluate": "Measure PQ, and AP if asked, of a checkpoint.",
    "predict": "Segment images: overlays, panoptic PNGs and JSON.",
    "visualize": "Draw a data set, predictions, or the curves of a run.",
    "weights": "List the published weights; import a .pth file.",
    "benchmark": "Measure speed and memory of a model, stage by stage.",
}


# What the system refuses for a reason outside of the program, wherever a path is first touched.
REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG}


class SuggestingGroup(click.Group):
    """A group that answers an unknown command with the closest one, and no command with its help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's; without arguments the help is the result, on stdout."""
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with "did you mean"."""
        names = self.list_commands(ctx)
        if args[0] not in names and not args[0].startswith("-") and not ctx.resilient_parsing:
            close = get_close_matches(args[0], names, n=1)
            advice = f"Did you mean {close[0]!r}?" if close else f"Expected one of {', '.join(names)}."
            raise click.UsageError(f"No such command {args[0]!r}. {advice}", ctx)
        return super().resolve_command(ctx, args)


class LazyGroup(SuggestingGroup):
    """The commands of `COMMANDS`, each imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of a user's work."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None where there is none of this name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command = getattr(import_module(f"{__name__}.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


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
    from panformer_cli.engine.torchrun import Place

    run = partial(program.main, arguments, prog_name="panformer", standalone_mode=False)
    try:
        place = Place.of_this_process()
    except PanformerError as error:
        return _fail(str(error))
    return _exit_code(run if place is None else partial(_run_in_team, place, run))


def _run_in_team(place: Place, run: Callable[[], Any]) -> int:
    from panformer_cli.engine.team import joined_team

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
