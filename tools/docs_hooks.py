"""Pages of the documentation that are generated from the code: a hook of mkdocs (`make docs`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from panformer_cli.cli.main import program
from panformer_cli.models.families import FAMILIES
from panformer_cli.recipe import Recipe
from panformer_cli.settings import DataSettings, TrainSettings
from panformer_cli.settings_reference import settings_of


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
        default = f"`{setting.default}`" if setting.default else "empty"
        facts = [setting.type, f"default {default}", f"range: {setting.range}" if setting.range else ""]
        parts += [
            f"### `{prefix}{setting.name}`",
            _without_tags(setting.meaning),
            f"*{'; '.join(filter(None, facts))}*",
        ]
    return parts


def _without_tags(text: str) -> str:
    """Return a text for Markdown without HTML tags outside of code."""
    return re.sub(r"(`[^`]*`)|<", lambda match: match[1] or "&lt;", text)
