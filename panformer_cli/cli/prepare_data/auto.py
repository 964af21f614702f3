"""`panformer prepare-data auto`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.options import announcer
from panformer_cli.cli.prepare_data.options import root_option

if TYPE_CHECKING:
    from panformer_cli.prepare.recognize import Form


@click.command(context_settings={"ignore_unknown_options": True})
@root_option
@click.option("--out", "-o", metavar="DIR", help="Output folder. Data sets in COCO panoptic format do not need one.")
@click.option("--dry-run", is_flag=True, help="Print the command without running it.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF THE COMMAND]...")
@click.pass_context
def auto(context: click.Context, root: Path, out: str | None, dry_run: bool, options: tuple[str, ...]) -> Any:
    """Recognize the form of a data set and run its command.

    Prints the form, the files that show it, and the command. Other options, such as --stuff, are passed to that
    command. If a folder has several forms, each is listed with its command, and nothing is run.

    \b
    panformer prepare-data auto --root photos --dry-run
    panformer prepare-data auto --root photos --out data/all --stuff road
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.prepare.recognize import ambiguity, recognize, refusal

    forms = recognize(root)
    if not forms:
        raise refusal(root)
    if len(forms) > 1:
        raise ambiguity(root, forms, out, options)
    form = forms[0]
    announce = announcer("--json" in options, RichReporter())
    announce(f"{form.root}: {form.title} (found {form.evidence})")
    announce(f"Command: {form.command(out, options)}")
    if not dry_run:
        _check_complete(form, out, options)
        return _run(context, form.words(out, options))
    return 0


def _check_complete(form: Form, out: str | None, options: tuple[str, ...]) -> None:
    """Raise a UsageError if the command needs options that are not known."""
    if out is None and not form.is_prepared:
        raise click.UsageError("the command needs an output folder; pass --out DIR.")
    from panformer_cli.prepare.recognize import is_given

    if form.needs_classes and form.classes is None and not is_given("--classes", options):
        raise click.UsageError("the command needs the names of the classes; pass --classes FILE.")


def _run(context: click.Context, words: list[str]) -> Any:
    """Run a command of the group that `auto` is in."""
    assert context.parent is not None
    group = context.parent.command
    assert isinstance(group, click.Group)
    command = group.get_command(context, words[0])
    assert command is not None
    name = f"{context.parent.command_path} {words[0]}"
    return command.main(words[1:], prog_name=name, standalone_mode=False)
