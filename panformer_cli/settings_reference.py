"""The meaning, type, default and range of every setting, read from the dataclasses of a recipe."""

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

from panformer_cli.setting_types import Range, range_of


class Setting(NamedTuple):
    """One setting; the default is YAML, or empty for no text."""

    name: str
    type: str
    default: str
    meaning: str
    range: str


def settings_of(settings: Any) -> Iterator[Setting]:
    """Yield the settings of a dataclass, those of its parent first; sections of the recipe are left out."""
    meanings: dict[str, str] = {}
    for parent in reversed(settings.__mro__[:-1]):
        meanings |= _attribute_docstrings(parent)
    hints = get_type_hints(settings)
    for field in fields(settings):
        if field.default is not MISSING:
            text = re.sub(r"\s+", " ", meanings.get(field.name, ""))
            meaning, _, allowed = text.partition(" Range: ")
            allowed = "; ".join(filter(None, [_range_of_numbers(settings, field.name), allowed.rstrip(".")]))
            yield Setting(field.name, _type_name(hints[field.name]), _as_yaml(field.default), meaning, allowed)


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
