"""The built-in recipes at a glance, and editable copies of a recipe."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panformer_cli.errors import PanformerError
from panformer_cli.models.families import FAMILIES
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import built_in_recipes, load_recipe, recipe_differences, recipe_from_dict, recipe_to_dict
from panformer_cli.settings_reference import Setting, settings_of
from panformer_cli.storage import plain_yaml
from panformer_cli.storage.files import atomic_write

_WIDTH = 100
"""Maximum length of a line of comments."""


@dataclass(frozen=True)
class RecipeSummary:
    """A built-in recipe at a glance.

    Attributes:
        recipe: Its settings.
        parameters: Parameters of the model in millions, with the classes of `data`.
        data: The data set.
        purpose: What it is for, in one line.
    """

    recipe: Recipe
    parameters: float
    data: str
    purpose: str


def parameters_of(name: str) -> float:
    """Return the parameters of a built-in recipe's model in millions, without reading its settings."""
    return float(_header(built_in_recipes()[name].read_text(encoding="utf-8"))["parameters"].split(" ")[0])


def summaries() -> list[RecipeSummary]:
    """Return the built-in recipes, sorted by name. Their headers have what the settings do not."""
    return [_summary(path) for path in built_in_recipes().values()]


def _summary(path: Path) -> RecipeSummary:
    text = path.read_text(encoding="utf-8")
    found = _header(text)
    parameters = float(found["parameters"].split(" ")[0])
    data = re.split(r", | \(| with ", found["data"])[0]
    return RecipeSummary(load_recipe(str(path)), parameters, data, found[path.stem].rstrip("."))


def _header(text: str) -> dict[str, str]:
    """Return the facts in the comments at the top of a recipe."""
    return dict(re.findall(r"^# (\w+): +(.+)$", text, flags=re.MULTILINE))


def copy_recipe(name_or_path: str, file: Path, replaces: bool = False) -> None:
    """Write an editable copy of a recipe, with all settings and their meanings as comments.

    Args:
        name_or_path: As for `load_recipe`.
        file: The new file. Its name without the suffix is the name of the copy.
        replaces: Whether an existing file is overwritten.

    Raises:
        PanformerError: The file exists and is not replaced, cannot be written, or its name is not one of a recipe.
    """
    if file.exists() and not replaces:
        raise PanformerError(f"{file} exists already; choose another file, or overwrite it with --force")
    content = recipe_to_dict(load_recipe(name_or_path)) | {"name": file.stem}
    copy = recipe_from_dict(content, str(file))
    text = "".join(f"{line}\n" for line in _lines(copy, name_or_path, file))
    with atomic_write(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _lines(recipe: Recipe, source: str, file: Path) -> Iterator[str]:
    """Yield the lines of a copy: settings that differ from the defaults, and the others as comments."""
    family = recipe.model.family
    changed = recipe_differences(recipe_from_dict({"model": {"family": family}}, "defaults"), recipe)
    yield f"# {recipe.name}: a copy of the recipe {source}."
    yield "#"
    if FAMILIES[family].trainable:
        yield f"# command:    panformer train {shlex.quote(str(file))} --set data.root=DIR"
        yield f"# check:      panformer recipes check {shlex.quote(str(file))}"
    else:
        yield f"# command:    panformer weights import FILE.pth --out DIR --recipe {shlex.quote(str(file))}"
    yield "#"
    yield "# Lines such as `#key: value` are defaults. To change one, remove its # and edit the value."
    yield ""
    yield from _section_lines(Recipe, recipe, "", "", changed)
    for section in ("model", "data", "train", "inference"):
        settings: Any = getattr(recipe, section)
        yield f"{section}:"
        yield from _section_lines(type(settings), settings, f"{section}.", "  ", changed)


def _section_lines(kind: type, values: Any, prefix: str, indent: str, changed: dict[str, Any]) -> Iterator[str]:
    for setting in settings_of(kind):
        facts = "; ".join(filter(None, [setting.type, setting.range]))
        for line in textwrap.wrap(f"{setting.meaning} ({facts})", _WIDTH - len(indent) - 2):
            yield f"{indent}# {line}"
        value = getattr(values, setting.name)
        text = plain_yaml.write({setting.name: list(value) if isinstance(value, tuple) else value}).strip()
        yield from (f"{indent}{_mark(prefix, setting, changed)}{line}" for line in text.splitlines())
        yield ""


def _mark(prefix: str, setting: Setting, changed: dict[str, Any]) -> str:
    """Return what precedes a setting: nothing if it is stated, and # if it has its default."""
    return "" if f"{prefix}{setting.name}" in {*changed, "model.family"} else "#"
