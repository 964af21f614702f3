"""Several options that a command receives as one argument."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def option_group(name: str, *options: Decorator) -> Callable[[Callable[..., Any]], Decorator]:
    """Turn a function of options into a decorator that adds these options to a command.

    Args:
        name: Name of the command's argument that receives what the function returns.
        options: Options, arguments and other groups, in the order of the help. The function has a parameter for each.

    >>> @option_group("size", click.option("--width", type=int), click.option("--height", type=int))
    ... def size_options(width: int, height: int) -> tuple[int, int]:
    ...     return width, height
    >>> @click.command()
    ... @size_options
    ... def draw(size: tuple[int, int]) -> None: ...
    """

    def with_build(build: Callable[..., Any]) -> Decorator:
        own = list(inspect.signature(build).parameters)

        @functools.wraps(build)
        def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(command)
            def with_group(**values: Any) -> Any:
                value = build(**{key: values.pop(key) for key in own})
                return command(**{name: value}, **values)

            decorated: Callable[..., Any] = with_group
            for option in reversed(options):
                decorated = option(decorated)
            return decorated

        return decorate

    return with_build
