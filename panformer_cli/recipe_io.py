"""Convert YAML files and `key=value` overrides to validated `Recipe`s, and back."""

from __future__ import annotations

import logging
import math
import stat
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from panformer_cli.errors import RecipeError
from panformer_cli.models.families import DEFAULT_FAMILY, FAMILIES
from panformer_cli.recipe import Recipe
from panformer_cli.storage import plain_yaml
from panformer_cli.wording import counted, truncated

_LOG = logging.getLogger(__name__)

Section = TypeVar("Section")

# In a wheel and in an editable install the recipes are the package `panformer_cli.recipes`. In a checkout that is run
# in place they are beside the package.
_RECIPE_FOLDERS = (Path(__file__).parent / "recipes", Path(__file__).parent.parent / "recipes")

_YES_NO = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe in a file, or a built-in recipe, with `overrides` applied.

    Args:
        name_or_path: path of a YAML file, or a built-in recipe such as `r50`, `r50.yaml` or `recipes/r50.yaml`. An
            existing file takes precedence.
        overrides: `key=value` with dotted keys, such as `train.lr=1e-4` or `data.train_short_sides=[320]`. Values are
            YAML. Values of text settings are used verbatim.

    Raises:
        RecipeError: there is no such recipe, it is not YAML, or it has invalid settings; all of them are listed.
    """
    path = find_recipe(name_or_path)
    _LOG.debug("Recipe %s, overrides %s", path, list(overrides))
    return _overridden(_read(path), overrides, str(path))


def override_recipe(recipe: Recipe, overrides: Sequence[str], where: str) -> Recipe:
    """Return a copy of `recipe` with `overrides` applied, as in `load_recipe`.

    Args:
        where: name of the source of `recipe`, for errors.

    Raises:
        RecipeError: an override cannot be applied; all problems are listed.
    """
    return _overridden(recipe_to_dict(recipe), overrides, where)


def recipe_differences(old: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the values of the settings that differ, as (old, new) by dotted key.

    A setting that only one of the two model families has is None in the other.
    """
    before, after = _flat(recipe_to_dict(old)), _flat(recipe_to_dict(new))
    keys = [*before, *(key for key in after if key not in before)]
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested dictionaries by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def recipe_from_dict(mapping: Mapping[str, Any], where: str) -> Recipe:
    """Return a recipe from nested dictionaries such as `recipe_to_dict` returns. Missing settings get their defaults.

    Args:
        where: name of the source of `mapping`, for errors.

    Raises:
        RecipeError: there are unknown keys, wrong types or values out of range; all of them are listed.
    """
    return _checked_recipe(mapping, where, [])


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return all settings as nested dictionaries of str, int, float, bool, None and lists, for JSON and YAML."""
    return {key: _plain(value) for key, value in asdict(recipe).items()}


def recipe_to_yaml(recipe: Recipe) -> str:
    """Return all settings as YAML. `load_recipe` reads it back to an equal recipe."""
    return plain_yaml.write(recipe_to_dict(recipe))


def built_in_recipes() -> dict[str, Path]:
    """Return the files of the recipes that come with panformer, by name, sorted."""
    for folder in _RECIPE_FOLDERS:
        found = sorted(folder.glob("*.yaml"))
        if found:
            return {path.stem: path for path in found}
    return {}


def find_recipe(name_or_path: str) -> Path:
    """Return the path of a recipe; see `load_recipe`.

    Raises:
        RecipeError: there is neither such a file nor such a built-in recipe.
    """
    path = Path(name_or_path)
    built_in = built_in_recipes()
    obstacle = _obstacle(path)
    if not obstacle:
        return path
    is_plain_name = name_or_path == path.name or path.parent == Path("recipes")
    name = path.stem if path.suffix == ".yaml" else path.name
    if is_plain_name and name in built_in:
        return built_in[name]
    close = get_close_matches(name, built_in, n=1)
    guess = f"; did you mean {close[0]}?" if close else ""
    raise RecipeError(
        f"the recipe {name_or_path!r} {obstacle}: expected a YAML file or one of the built-in recipes "
        f"{', '.join(built_in)}{guess}"
    )


def _obstacle(path: Path) -> str:
    """Return why there is no file at `path`; empty if there is one."""
    try:
        return "is a folder" if stat.S_ISDIR(path.stat().st_mode) else ""
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be opened ({error.strerror})"


def _read(path: Path) -> dict[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text (byte {error.start}): expected a recipe in YAML") from error
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror or error}") from error
    try:
        content = plain_yaml.parse(text)
    except ValueError as error:
        raise RecipeError(f"{path} is not a recipe in YAML: {error}") from error
    if content is None:
        raise RecipeError(f"{path} is empty: expected a recipe with settings such as `name: my_run`")
    if not isinstance(content, dict):
        raise RecipeError(
            f"{path} contains {_received(content)}: expected a recipe with settings such as `name: my_run`"
        )
    return content


def _overridden(content: dict[Any, Any], overrides: Sequence[str], where: str) -> Recipe:
    """Return the recipe in `content`, which is changed, with `overrides` applied; errors as `load_recipe`."""
    if overrides:
        where = f"{where} with {' '.join(f'--set {override}' for override in overrides)}"
    problems: list[str] = []
    settings = _settings(_family_of(content, where, overrides))
    for override in overrides:
        _apply_override(content, override, settings, problems)
    return _checked_recipe(content, where, problems)


def _family_of(content: Any, where: str, overrides: Sequence[str] = ()) -> str:
    """Return the model family that a recipe and its overrides name, or the default family.

    Raises:
        RecipeError: there is no such family. Nothing else is validated then, because the other settings depend on it.
    """
    section = content.get("model") if isinstance(content, Mapping) else None
    family = section.get("family", DEFAULT_FAMILY) if isinstance(section, Mapping) else DEFAULT_FAMILY
    for override in overrides:
        key, equals, text = override.partition("=")
        family = text if equals and key == "model.family" else family
    if not isinstance(family, str) or family not in FAMILIES:
        raise RecipeError(f"{where}: model.family is {_received(family)}: expected one of {', '.join(FAMILIES)}")
    return family


def _sections(family: str) -> dict[str, Any]:
    """Return the types of the recipe's fields. Two sections depend on the model family."""
    known = FAMILIES[family]
    return {**_field_types(Recipe), "model": known.model_settings, "inference": known.inference_settings}


def _apply_override(content: dict[Any, Any], override: str, settings: dict[str, Any], problems: list[str]) -> None:
    """Apply `override` to `content`, or add to `problems` why it cannot be applied."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        problems.append(f"--set {override}: expected key=value, such as train.lr=1e-4")
        return
    hint = settings.get(key)
    if hint is None:
        problems.append(_unknown_key(key, list(settings)))
        return
    try:
        value = text if _is_text(hint) else plain_yaml.parse(text)
    except ValueError as error:
        problems.append(f"{key} is {text!r}: {error}; expected {_expected(hint)}")
        return
    section, _, leaf = key.rpartition(".")
    # A section that is not a mapping is left unchanged: the validation of the whole recipe reports it.
    inner = _opened(content, section) if section else content
    if isinstance(inner, dict):
        inner[leaf] = value


def _opened(content: dict[Any, Any], section: str) -> Any:
    if content.get(section) is None:
        content[section] = {}
    return content[section]


def _checked_recipe(mapping: Mapping[Any, Any], where: str, problems: list[str]) -> Recipe:
    """Return the recipe, or raise one RecipeError with `problems` and all other problems."""
    family = _family_of(mapping, where)
    if isinstance(mapping, Mapping):  # the defaults of these two sections depend on the family
        mapping = {"model": {}, "inference": {}, **mapping}
    recipe = _section(Recipe, _sections(family), mapping, "", problems, list(_settings(family)))
    if len(problems) == 1:
        raise RecipeError(f"{where}: {problems[0]}")
    if problems:
        raise RecipeError("\n  ".join([f"{where} has {counted(len(problems), 'problem')}:", *problems]))
    return recipe


def _section(
    kind: Callable[..., Section],
    hints: Mapping[str, Any],
    mapping: Any,
    prefix: str,
    problems: list[str],
    known: list[str],
) -> Section:
    """Return an instance of the dataclass `kind`. Invalid settings are added to `problems` and get their defaults.

    Args:
        hints: types of its fields.
        prefix: prefix of its keys, such as `model.`.
        known: dotted keys of all settings.
    """
    if mapping is None:
        mapping = {}
    if not isinstance(mapping, Mapping):
        problems.append(f"{prefix.rstrip('.') or 'the recipe'} is {_received(mapping)}: expected keys with values")
        return kind()
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for key, value in mapping.items():
        dotted = f"{prefix}{key}"
        if key not in hints:
            problems.append(_unknown_key(dotted, known))
        elif is_dataclass(hints[key]):
            inner = _field_types(hints[key])
            values[key] = _section(hints[key], inner, value, f"{dotted}.", problems, known)
        else:
            try:
                values[key] = _checked(dotted, value, hints[key])
            except TypeError as error:
                wrong.append(dotted)
                problems.append(str(error))
    try:
        return kind(**values)
    except RecipeError as error:
        # A setting of a wrong type has its default here, which must not be reported.
        problems += [line for line in str(error).splitlines() if line.split(" ")[0] not in wrong]
        return kind()


def _checked(dotted: str, value: Any, hint: Any) -> Any:
    """Return the value of a setting. Raise a TypeError with a complete message if it cannot be used."""
    try:
        return _convert(value, hint)
    except TypeError as error:
        raise TypeError(f"{dotted} is {_received(value)}: expected {_expected(hint)}") from error


@cache
def _field_types(kind: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields, without class variables."""
    hints = get_type_hints(kind)
    return {item.name: hints[item.name] for item in fields(kind)}


def _convert(value: Any, hint: Any) -> Any:
    """Return `value` converted to the type `hint`. Raise a TypeError if it has another type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else _convert(value, inner)
    if origin is Literal:
        return _accept(value, isinstance(value, str) and value in arguments)
    if origin is tuple:
        _accept(value, isinstance(value, (list, tuple)))
        inner = (arguments[0],) * len(value) if arguments[-1] is Ellipsis else arguments
        _accept(value, len(value) == len(inner))
        return tuple(_convert(item, kind) for item, kind in zip(value, inner, strict=True))
    if hint is bool:
        value = _YES_NO.get(value.lower(), value) if isinstance(value, str) else value
        return _accept(value, isinstance(value, bool))
    if hint is float:
        _accept(value, isinstance(value, (int, float)) and not isinstance(value, bool))
        return float(_accept(value, math.isfinite(value)))
    return _accept(value, isinstance(value, hint) and not isinstance(value, bool))


def _accept(value: Any, fits: bool) -> Any:
    if not fits:
        raise TypeError
    return value


def _expected(hint: Any) -> str:
    """Return a description of the values that `_convert` accepts for `hint`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return f"{_expected(arguments[0])}, or null"
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    if origin is tuple and arguments[-1] is Ellipsis:
        return "a list of names" if arguments[0] is str else "a list of whole numbers such as [320, 480]"
    if origin is tuple:
        return f"a list of {len(arguments)} {'whole numbers' if arguments[0] is int else 'numbers'}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text (in quotes if necessary)"}[hint]


def _is_text(hint: Any) -> bool:
    return hint is str or get_origin(hint) is Literal


def _received(value: Any) -> str:
    return truncated("null" if value is None else repr(value), 60)


def _settings(family: str) -> dict[str, Any]:
    """Return the types of all settings by dotted key, without the sections themselves."""
    found: dict[str, Any] = {}
    for key, hint in _sections(family).items():
        kind: Any = hint
        if is_dataclass(hint):
            found |= {f"{key}.{name}": inner for name, inner in _field_types(kind).items()}
        else:
            found[key] = hint
    return found


def _unknown_key(dotted: str, known: list[str]) -> str:
    """Return the problem with suggestions: similar keys of the same section, or the same name in another section."""
    sections = sorted({key.split(".")[0] for key in known if "." in key})
    if dotted in sections:
        return f"{dotted} is a section: set one of its keys, such as {_keys_of(dotted, known)[0]}"
    section, _, leaf = dotted.rpartition(".")
    if section in sections:
        siblings = {key.rpartition(".")[2]: key for key in _keys_of(section, known)}
    else:
        siblings = {name: name for name in [*_keys_of("", known), *sections]}
    close = (
        get_close_matches(dotted, known, n=1, cutoff=0.9)
        or [siblings[name] for name in get_close_matches(leaf, siblings, n=1)]
        or [key for key in known if key.rpartition(".")[2] == leaf]
        or ([] if section in sections else get_close_matches(dotted, known, n=1))
    )
    if section in sections and not close:
        return f"unknown key {dotted}; {section} has {', '.join(siblings)}"
    advice = f"did you mean {' or '.join(close)}?" if close else f"expected one of {', '.join(siblings)}"
    return f"unknown key {dotted}; {advice}"


def _keys_of(section: str, known: list[str]) -> list[str]:
    return [key for key in known if key.rpartition(".")[0] == section]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
