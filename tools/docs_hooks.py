"""Pages of the documentation that are generated from the code: a hook of mkdocs (`make docs`)."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields
from itertools import pairwise
from typing import Any, NamedTuple

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from panformer_cli.cli.groups import COMMANDS
from panformer_cli.models.families import FAMILIES
from panformer_cli.recipe import Recipe
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
    """Return the reference of all commands; mkdocs-click fills in their options."""
    parts = ["# Commands", "The text that `panformer COMMAND --help` prints, on one page."]
    for name in COMMANDS:
        function = name.replace("-", "_")
        parts.append(
            f"::: mkdocs-click\n    :module: panformer_cli.cli.{function}\n    :command: {function}\n"
            f"    :prog_name: panformer {name}\n    :depth: 1\n    :list_subcommands: True"
        )
    return "\n\n".join(parts) + "\n"


class Setting(NamedTuple):
    """One row of the settings reference."""

    name: str
    type: str
    default: str
    meaning: str


def settings_page() -> str:
    """Return the reference of all settings that a recipe or `--set` can change."""
    parts = [
        "# Settings",
        "A recipe is a YAML file that states what differs from these defaults; `--set SECTION.NAME=VALUE` changes one "
        "setting for one run. A value out of range is reported before anything runs. The defaults are the published "
        "R-50 run on COCO.",
    ]
    parts += _section("Top level", "", Recipe)
    parts += _section("`data`", "data.", DataSettings)
    parts += _section("`train`", "train.", TrainSettings)
    for name, family in FAMILIES.items():
        parts += _section(f"`model` of `{name}`", "model.", family.model_settings)
        parts += _section(f"`inference` of `{name}`", "inference.", family.inference_settings)
    return "\n\n".join(parts) + "\n"


def _section(title: str, prefix: str, settings: Any) -> list[str]:
    head = "| setting | type | default | meaning |\n| --- | --- | --- | --- |"
    rows = [f"| `{prefix}{row.name}` | {row.type} | {row.default} | {row.meaning} |" for row in settings_of(settings)]
    return [f"## {title}", "\n".join([head, *rows])]


def settings_of(settings: Any) -> Iterator[Setting]:
    """Yield the settings of a dataclass, those of its parent first; sections of the recipe are left out."""
    meanings: dict[str, str] = {}
    for parent in reversed(settings.__mro__[:-1]):
        meanings |= _attribute_docstrings(parent)
    for field in fields(settings):
        if field.default is not MISSING:
            meaning = re.sub(r"\s+", " ", meanings.get(field.name, "")).replace("|", "\\|")
            yield Setting(field.name, f"`{field.type}`".replace("|", "\\|"), f"`{_as_yaml(field.default)}`", meaning)


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
