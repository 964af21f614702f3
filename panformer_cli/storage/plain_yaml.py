"""YAML without its surprises.

`1e-4` is a number; `no`, `off`, `yes` and `on` are strings; duplicate keys are errors; anchors, aliases, tags and dates
are not supported. PyYAML's own rules differ in each of these.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from typing import Any, NoReturn

import yaml
from yaml.nodes import MappingNode, Node

from panformer_cli.storage.plain_json import DEEPEST, TOO_DEEP

# An integer of 19 digits or more is read as a float, so that no integer overflows 64 bits.
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9_]{0,17})", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
            _refuse("anchors (&), aliases (*) and tags (!) are not supported; write the value itself", event.start_mark)
        is_nesting = isinstance(event, yaml.CollectionStartEvent)
        self.depth += is_nesting
        if self.depth > DEEPEST:
            _refuse(TOO_DEEP, event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= is_nesting
        return node

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                _refuse(f"the key {name!r} appears twice, first on line {seen[name]}", key.start_mark)
            seen[name] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


# Write lists on one line, as in the recipes.
_Dumper.add_representer(list, lambda dumper, rows: dumper.represent_sequence("tag:yaml.org,2002:seq", rows, True))

for _kind, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), _first)


def parse(text: str) -> Any:
    """Return the value of a YAML text: dict, list, str, int, float, bool or None.

    Raises:
        ValueError: not plain YAML; the message gives the reason and, if known, the line and column.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise ValueError(f"{where}{reason}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def write(content: Any) -> str:
    """Return `content` as YAML that `parse` reads back to an equal value."""
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100))


def write_standard(content: Any) -> str:
    """Return YAML for other programs: texts that their rules take for a date, a number or `true` are quoted."""
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=math.inf)


def _refuse(problem: str, mark: yaml.Mark) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
