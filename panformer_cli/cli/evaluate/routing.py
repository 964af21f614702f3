"""Routing of `panformer evaluate`: finds the subcommand of a command line, and explains misplaced words."""

from __future__ import annotations

from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path

import click

from panformer_cli.cli.groups import OrderedGroup

DEFAULT = "checkpoint"
"""The subcommand that runs if none is named."""


class EvaluateGroup(OrderedGroup):
    """A group whose subcommand is optional: `--predictions` or `--corruptions` imply one, otherwise it is `DEFAULT`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse `args` after adding the subcommand they imply.

        Raises:
            click.UsageError: The first word is a mistyped subcommand, or could also be a checkpoint.
        """
        if ctx.resilient_parsing and (not args or args == ["--"]):
            return super().parse_args(ctx, args)  # completion of the first word, which can be a subcommand
        if args and args[0] in self.commands:
            self._refuse_ambiguous(ctx, *args)
        elif args and not args[0].startswith("-"):
            self._refuse_mistyped(ctx, args[0])
        return super().parse_args(ctx, self.with_subcommand(args, ctx.help_option_names))

    def with_subcommand(self, words: list[str], help_options: list[str]) -> list[str]:
        """Return `words` with the subcommand they imply in front; unchanged if they name one or start with --help."""
        if words and (words[0] in self.commands or words[0] in help_options):
            return words
        options = [word.partition("=")[0] for word in takewhile(lambda word: word != "--", words)]
        if "--predictions" in options:
            return ["predictions", *_file_first(words, options.index("--predictions"))]
        return ["robustness" if "--corruptions" in options else DEFAULT, *words]

    def owners(self, option: str) -> list[str]:
        """Return the names of the subcommands that have `option`, or accept its value as an argument."""
        if option == "--predictions":
            return ["predictions"]
        return [name for name, command in self.commands.items() if any(option in p.opts for p in command.params)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the subcommands, then the options of the default one."""
        self.format_commands(ctx, formatter)
        options = [option for option in self.commands[DEFAULT].get_params(ctx) if isinstance(option, click.Option)]
        records = [option.get_help_record(ctx) for option in options]
        with formatter.section(f"Options of {DEFAULT}, the default command"):
            formatter.write_dl([record for record in records if record])

    def _refuse_ambiguous(self, ctx: click.Context, name: str, *words: str) -> None:
        """Raise click.UsageError if `name`, without an argument of the subcommand in `words`, is also a path."""
        if not Path(name).exists() or not set(words).isdisjoint(ctx.help_option_names):
            return
        command = self.commands[name]
        parsed = command.make_context(name, list(words), ctx, resilient_parsing=True)
        arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
        if all(parsed.params.get(str(argument.name)) is None for argument in arguments):
            spelled = " ".join(argument.metavar or str(argument.name).upper() for argument in arguments)
            raise click.UsageError(
                f"{name} is both a subcommand and a path in this folder: write `{ctx.command_path} ./{name}` to "
                f"evaluate the checkpoint {name}, or `{ctx.command_path} {name} {spelled}` to run the subcommand.",
                ctx,
            )

    def _refuse_mistyped(self, ctx: click.Context, word: str) -> None:
        """Raise click.UsageError if `word` is not a path but similar to the name of a subcommand."""
        close = get_close_matches(word, self.commands, n=1, cutoff=0.85)
        if close and not Path(word).exists():
            raise click.UsageError(f"{word} is neither a checkpoint nor a subcommand. Did you mean {close[0]!r}?", ctx)


class Subcommand(click.Command):
    """A subcommand whose errors name the subcommands that have an option, and the expected arguments."""

    allow_extra_args = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse `args`.

        Raises:
            click.UsageError: An option belongs to another subcommand, or there are too many arguments.
        """
        try:
            surplus = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise _misplaced(error, ctx) from error
        if surplus and not ctx.resilient_parsing:
            usage = " ".join([ctx.command_path, *self.collect_usage_pieces(ctx)])
            raise click.UsageError(f"Unexpected argument {surplus[0]!r}: expected `{usage}`.", ctx)
        return surplus


def _misplaced(error: click.NoSuchOption, ctx: click.Context) -> click.UsageError:
    """Return an error that names the subcommands with the option; `error` itself if there is none."""
    group = ctx.parent.command if ctx.parent else None
    owners = group.owners(error.option_name) if isinstance(group, EvaluateGroup) else []
    if not owners:
        return error
    return click.UsageError(
        f"{error.option_name} is not an option of `{ctx.command_path}`: leave it out, or use a subcommand that has it "
        f"({', '.join(owners)}).",
        ctx,
    )


def _file_first(words: list[str], position: int) -> list[str]:
    """Return `words` with the value of `--predictions`, which is at `position`, as the first argument.

    Raises:
        click.UsageError: It has no value.
    """
    _, equals, value = words[position].partition("=")
    values, rest = ([value], words[position + 1 :]) if equals else (words[position + 1 :][:1], words[position + 2 :])
    if not values:
        raise click.UsageError("Option '--predictions' requires an argument: the panoptic JSON of the predictions.")
    return [*values, *words[:position], *rest]
