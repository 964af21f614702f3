"""Errors of the engine in the words of Python: `tile_overlap` for the option `--tile-overlap`."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from panformer_cli.errors import PanformerError

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")

_OPTION = re.compile(r"`[^`]*`|(?<![\w-])--([a-z]+(?:-[a-z]+)*)")
"""An option, but not in a command that the message quotes."""
_OTHER_NAMES = {"set": "settings"}


def in_python(text: str) -> str:
    """Return a message with the names of arguments for those of options.

    >>> in_python("--tile is 8: expected 64 or more; see `panformer predict --help`")
    'tile is 8: expected 64 or more; see `panformer predict --help`'
    """

    def named(match: re.Match[str]) -> str:
        option = match[1]
        return match[0] if option is None else _OTHER_NAMES.get(option, option.replace("-", "_"))

    return _OPTION.sub(named, text)


def python_errors(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Let the errors of a public function name its arguments, and not the options of the command line."""

    @functools.wraps(function)
    def called(*arguments: Arguments.args, **named: Arguments.kwargs) -> Returned:
        try:
            return function(*arguments, **named)
        except PanformerError as error:
            error.args = (in_python(str(error)),)
            raise

    return called
