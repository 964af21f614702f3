"""Any figures in JSON as tables, so that a new metric is on the page without a line of code for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from panformer_cli.pages.report.tables import Cell, DataTable

_NAMES = {"miou": "mIoU", "fwiou": "fwIoU", "iou": "IoU", "ece": "ECE", "of": ""}
_NAMES |= {name: name.upper() for name in ("pq", "sq", "rq", "tp", "fp", "fn", "n", "ap")}

MOST_COLUMNS = 24
"""A wider table is a matrix for machines; metrics.json has it."""


def tables_of(name: str, content: Any) -> Iterator[DataTable]:
    """The tables of one figure or of a tree of figures, the outer ones first.

    An object of numbers and texts is a table of two columns. A list of such objects, or an object of them, is a table
    with a row for each. What is nested deeper gets tables of its own, named after the way to it.
    """
    if isinstance(content, Mapping):
        yield from _tables_of_object(name, content)
    elif isinstance(content, list) and content and all(isinstance(row, Mapping) for row in content):
        yield from _table(name, [dict(row) for row in content])
    elif isinstance(content, list) and content and all(map(_is_plain, content)):
        yield DataTable(
            name, ["Place", "Value"], [[place, _cell(value)] for place, value in enumerate(content, start=1)]
        )


def title_of(key: str) -> str:
    """A key of JSON as words for a person.

    >>> title_of("wrong_class")
    'Wrong class'
    """
    words = key.replace("_", " ").strip()
    return _NAMES.get(words, words[:1].upper() + words[1:])


def _tables_of_object(name: str, content: Mapping[str, Any]) -> Iterator[DataTable]:
    plain = {key: value for key, value in content.items() if _is_plain(value) or _is_interval(value)}
    rows = {key: value for key, value in content.items() if isinstance(value, Mapping) and _is_row(value)}
    if plain:
        yield DataTable(name, ["Figure", "Value"], [[title_of(key), _cell(value)] for key, value in plain.items()])
    if rows:
        yield from _table(name, [{"of": title_of(key), **row} for key, row in rows.items()])
    for key, value in content.items():
        if key not in plain and key not in rows:
            yield from tables_of(f"{name}: {title_of(key).lower()}", value)


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[DataTable]:
    flat = [_flat(row) for row in rows]
    keys = list(dict.fromkeys(key for row in flat for key in row))
    if 0 < len(keys) <= MOST_COLUMNS:
        yield DataTable(name, [title_of(key) for key in keys], [[_cell(row.get(key)) for key in keys] for row in flat])


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """One level: `{"causes": {"missed": 1}}` is `{"causes: missed": 1}`; lists other than intervals are left out."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}: {inner}": inner_value for inner, inner_value in _flat(value).items()}
        elif _is_plain(value) or _is_interval(value):
            flat[key] = value
    return flat


def _cell(value: Any) -> Cell:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _is_interval(value):
        return f"{value[0]:.1f} to {value[1]:.1f}"
    return value if isinstance(value, (str, int, float)) else None


def _is_row(content: Mapping[str, Any]) -> bool:
    return bool(content) and all(_is_plain(value) or _is_interval(value) for value in content.values())


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _is_interval(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(end, (int, float)) for end in value)
