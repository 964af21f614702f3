"""Command groups that suggest a name for a mistyped one, keep a fixed order, and import commands only when used."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

import click

from panformer_cli.cli.other_names import command_of
from panformer_cli.cli.verbosity_options import with_verbosity

# Name and one-line help of every command, so that `panformer --help` imports none of them. The command `a-b` is the
# function `a_b` of the module `a_b` of this package.
COMMANDS = {
    "demo": "Try everything on generated scenes: train, evaluate, predict, visualize.",
    "prepare-data": "Convert, verify, repair or split a data set, or generate scenes.",
    "train": "Train a model from a recipe.",
    "recipes": "List the built-in recipes; show, check or copy a recipe.",
    "evaluate": "Evaluate a checkpoint or predictions; compare results.",
    "predict": "Segment images: overlays, panoptic PNGs and JSON.",
    "visualize": "Draw a data set, predictions or training curves.",
    "weights": "List and download published weights; import a .pth file.",
    "benchmark": "Measure the speed and memory of a model, stage by stage.",
    "doctor": "Examine this installation: versions, devices, self-test.",
}


class SuggestingGroup(click.Group):
    """A group that suggests the closest command for an unknown one; without a command, it shows its help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does; without arguments, show the help on stdout."""
        return super().parse_args(ctx, args or ["--help"])

    def suggestion(self, word: str) -> str | None:
        """Return the command that a word certainly means; None for the closest name."""
        del word
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve as click does; suggest the closest name for an unknown command."""
        names = self.list_commands(ctx)
        if args[0] not in names and not args[0].startswith("-") and not ctx.resilient_parsing:
            found = self.suggestion(args[0]) or next(iter(get_close_matches(args[0], names, n=1)), None)
            advice = f"Did you mean {found!r}?" if found else f"Expected one of {', '.join(names)}."
            raise click.UsageError(f"No such command {args[0]!r}. {advice}", ctx)
        return super().resolve_command(ctx, args)


class OrderedGroup(SuggestingGroup):
    """A group that lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they were added."""
        del ctx
        return list(self.commands)


class LazyGroup(SuggestingGroup):
    """The commands of `COMMANDS`, each imported when it is used."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does; refuse an empty argument, as a path it would be the current folder."""
        if "" in args and not ctx.resilient_parsing:
            before = args[max(args.index("") - 1, 0)]
            after = f" after {before}" if before else ""
            raise click.UsageError(f"An argument{after} is empty; is a variable of the shell not set?", ctx)
        return super().parse_args(ctx, args)

    def suggestion(self, word: str) -> str | None:
        """Return the command that other tools call `word`."""
        return command_of(word)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of a typical workflow."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None for an unknown name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command = getattr(import_module(f"panformer_cli.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return with_verbosity(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
