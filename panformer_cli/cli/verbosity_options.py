"""`--quiet`, `--verbose` and `--log-file`, which every command has, and its first line."""

from __future__ import annotations

import functools
import logging
import platform
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from panformer_cli import __version__
from panformer_cli.cli.loading import announce_model

_LOG = logging.getLogger(__name__)


def with_verbosity(command: click.Command) -> click.Command:
    """Add the options to a command, or to all commands of a group, unless they are there, and return it."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            with_verbosity(inner)
    elif not any(parameter.name == "log_file" for parameter in command.params):
        command.params += _options()
        if command.callback is not None:
            command.callback = _announced(command.callback)
    return command


def _options() -> list[click.Parameter]:
    option = functools.partial(click.Option, is_eager=True, expose_value=False, callback=_configure)
    return [
        option(["-q", "--quiet"], is_flag=True, help="Print only errors, warnings and the results."),
        option(["-v", "--verbose"], is_flag=True, help="Also print timings, resolved paths and warnings of libraries."),
        option(
            ["--log-file"],
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Append everything that --verbose prints to a file, with times.",
        ),
    ]


def _configure(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Apply an option, if given, before the other options are read."""
    if value and not context.resilient_parsing:
        from panformer_cli.verbosity import configure

        configure(**{str(parameter.name): value})


def _announced(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command's function that first prints what is loaded, and logs how it was called."""

    @functools.wraps(callback)
    def announced(*arguments: Any, **options: Any) -> Any:
        context = click.get_current_context()
        announce_model(context)
        if _LOG.isEnabledFor(logging.DEBUG):
            _LOG.debug("Command: %s", shlex.join(["panformer", *(context.find_root().obj or [])]))
            _LOG.debug("Folder: %s", Path.cwd())
            _LOG.debug("panformer %s, Python %s, %s", __version__, sys.version.split()[0], platform.platform())
        return callback(*arguments, **options)

    return announced
