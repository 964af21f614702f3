"""Pages of the documentation that are generated from the code: a hook of mkdocs (`make docs`)."""

from __future__ import annotations

import ast
import inspect
import json
import re
import types
from collections.abc import Iterator
from dataclasses import MISSING, fields
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from panformer_cli.cli.main import program
from panformer_cli.models.families import FAMILIES
from panformer_cli.recipe import Recipe
from panformer_cli.setting_types import Range, range_of
from panformer_cli.settings import DataSettings, TrainSettings


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, content in {"commands.md": commands_page(), "settings.md": settings_page()}.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links from a page to files outside of docs/ lead to the repository."""
    del page, files
    return markdown.replace("](../", f"]({config.repo_url}/blob/main/")


def commands_page() -> str:
    """Return the help texts of all commands."""
    parts = ["# Commands", "The texts that `panformer COMMAND --help` prints, on one page."]
    for name, text in _help_texts(program, click.Context(program, info_name="panformer", max_content_width=100)):
        parts += [f"## {name}", f"```text\n{text}\n```"]
    return "\n\n".join(parts) + "\n"


def _help_texts(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """Yield the words that call a command and its help text, then those of its subcommands."""
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _help_texts(found, click.Context(found, parent=context, info_name=name))


class Setting(NamedTuple):
    """One entry of the settings reference."""

    name: str
    type: str
    default: str
    meaning: str
    range: str


def settings_page() -> str:
    """Return the reference of all settings that a recipe or `--set` can change."""
    parts = [
        "# Settings",
        "A recipe is a YAML file with the settings that differ from these defaults, which are those of the published "
        "R-50 run on COCO. `--set SECTION.NAME=VALUE` changes one setting for one run. The value is YAML: "
        "`--set 'train.drop_epochs=[24]'`, `--set train.max_steps=null`. Invalid values are reported before the run.",
    ]
    parts += _section("Top level", "", Recipe)
    parts += _section("data", "data.", DataSettings)
    parts += _section("train", "train.", TrainSettings)
    for name, family in FAMILIES.items():
        parts += _section(f"model ({name})", "model.", family.model_settings)
        parts += _section(f"inference ({name})", "inference.", family.inference_settings)
    return "\n\n".join(parts) + "\n"


def _section(title: str, prefix: str, settings: Any) -> list[str]:
    parts = [f"## {title}"]
    for setting in settings_of(settings):
        facts = [setting.type, f"default {setting.default}", f"range: {setting.range}" if setting.range else ""]
        parts += [f"### `{prefix}{setting.name}`", setting.meaning, f"*{'; '.join(filter(None, facts))}*"]
    return parts


def settings_of(settings: Any) -> Iterator[Setting]:
    """Yield the settings of a dataclass, those of its parent first; sections of the recipe are left out."""
    meanings: dict[str, str] = {}
    for parent in reversed(settings.__mro__[:-1]):
        meanings |= _attribute_docstrings(parent)
    hints = get_type_hints(settings)
    for field in fields(settings):
        if field.default is not MISSING:
            text = re.sub(r"\s+", " ", meanings.get(field.name, ""))
            text = re.sub(r"(`[^`]*`)|<", lambda match: match[1] or "&lt;", text)  # no HTML tags outside of code
            meaning, _, allowed = text.partition(" Range: ")
            default = "empty" if field.default == "" else f"`{_as_yaml(field.default)}`"
            allowed = "; ".join(filter(None, [_range_of_numbers(settings, field.name), allowed.rstrip(".")]))
            yield Setting(field.name, _type_name(hints[field.name]), default, meaning, allowed)


def _range_of_numbers(settings: type, name: str) -> str:
    """Return the range that is declared with the type of a setting; empty for texts and for any number."""
    allowed = range_of(settings, name)
    return "" if allowed == Range() else f"{allowed}{' each' if allowed.values else ''}"


def _type_name(hint: Any) -> str:
    """Return a type in words: `integer or null`, `list of integers`, `one of step, cosine`."""
    arguments = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_type_name(argument) for argument in arguments)
    if get_origin(hint) is Literal:
        return f"one of {', '.join(arguments)}"
    if get_origin(hint) is tuple:
        return f"list of {_type_name(arguments[0])}s"
    names = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}
    return names[hint]


def _attribute_docstrings(settings: type) -> dict[str, str]:
    """Return the strings that follow the attributes in the body of a class, by attribute."""
    (body,) = ast.parse(inspect.getsource(settings)).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, following in pairwise(body.body):
        if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
            assert isinstance(statement.target, ast.Name)
            found[statement.target.id] = ast.literal_eval(following.value)
    return found


def _as_yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
