"""Options that a command receives as one argument."""

from __future__ import annotations

import click
from click.testing import CliRunner

from panformer_cli.cli.option_group import option_group


@option_group("size", click.option("--width", type=int, default=2), click.option("--height", type=int, default=3))
def size_options(width: int, height: int) -> tuple[int, int]:
    """Add the size."""
    if width == height:
        raise click.UsageError("a square")
    return width, height


@option_group("sheet", click.argument("name"), size_options, click.option("--dpi", default=1))
def sheet_options(name: str, size: tuple[int, int], dpi: int) -> str:
    return f"{name} {size[0]}x{size[1]} at {dpi}"


@click.command()
@sheet_options
@click.option("--count", default=1)
def draw(sheet: str, count: int) -> None:
    """Draw sheets."""
    click.echo(f"{count} of {sheet}")


def test_a_command_receives_a_group_and_the_groups_in_it() -> None:
    assert CliRunner().invoke(draw, ["a4", "--height", "7", "--count", "4"]).output == "4 of a4 2x7 at 1\n"
    square = CliRunner().invoke(draw, ["a4", "--height", "2"])
    assert (square.exit_code, "a square" in square.output) == (2, True)


def test_options_are_in_the_order_of_the_group_and_the_function_keeps_its_docstring() -> None:
    assert [parameter.name for parameter in draw.params] == ["name", "width", "height", "dpi", "count"]
    assert draw.help == "Draw sheets."
    assert size_options.__doc__ == "Add the size."
