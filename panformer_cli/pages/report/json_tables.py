"""Tables of arbitrary JSON metrics, so that new metrics appear on the page without extra code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from panformer_cli.pages.base import Cell, Table
from panformer_cli.wording import interval_text

_NAMES = {"miou": "mIoU", "fwiou": "fwIoU", "iou": "IoU", "ece": "ECE", "of": "Group", "false": "False positive"}
_NAMES |= {"truth pngs": "Ground truth PNGs", "predicted pngs": "Predicted PNGs"}
_NAMES |= {name: name.upper() for name in ("pq", "sq", "rq", "tp", "fp", "fn", "n", "ap")}

MAX_COLUMNS = 24
"""Wider tables are left out; metrics.json has them."""


def tables_of(name: str, content: Any) -> Iterator[Table]:
    """Yield the tables of one metric or of a tree of metrics, outer tables first.

    An object of numbers and strings becomes a table with two columns. A list or an object of such objects becomes a
    table with one row per object. Deeper levels become separate tables, named after their path.
    """
    if isinstance(content, Mapping):
        yield from _tables_of_object(name, content)
    elif isinstance(content, list) and content and all(isinstance(row, Mapping) for row in content):
        yield from _table(name, content)
    elif isinstance(content, list) and content and all(map(_is_plain, content)):
        yield Table(name, ["Position", "Value"], [[i, _cell(value)] for i, value in enumerate(content, start=1)])


def title_of(key: str) -> str:
    """Return a JSON key in words.

    >>> title_of("wrong_class")
    'Wrong class'
    """
    words = key.replace("_", " ").strip()
    return _NAMES.get(words, words[:1].upper() + words[1:])


def _tables_of_object(name: str, content: Mapping[str, Any]) -> Iterator[Table]:
    values = {key: value for key, value in content.items() if _is_value(value)}
    rows = {key: value for key, value in content.items() if isinstance(value, Mapping) and _is_row(value)}
    if values:
        yield Table(name, ["Metric", "Value"], [[title_of(key), _cell(value)] for key, value in values.items()])
    if rows:
        yield from _table(name, [{"of": title_of(key), **row} for key, row in rows.items()])
    for key, value in content.items():
        if key not in values and key not in rows:
            yield from tables_of(f"{name}: {title_of(key).lower()}", value)


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    flat = [_flat(row) for row in rows]
    keys = list(dict.fromkeys(key for row in flat for key in row))
    if 0 < len(keys) <= MAX_COLUMNS:
        yield Table(name, [title_of(key) for key in keys], [[_cell(row.get(key)) for key in keys] for row in flat])


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"causes: missed": 1}` for `{"causes": {"missed": 1}}`; lists are left out, except intervals."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}: {inner}": inner_value for inner, inner_value in _flat(value).items()}
        elif _is_value(value):
            flat[key] = value
    return flat


def _cell(value: Any) -> Cell:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _is_interval(value):
        return interval_text(value)
    return value if isinstance(value, (str, int, float)) else None


def _is_row(content: Mapping[str, Any]) -> bool:
    return bool(content) and all(map(_is_value, content.values()))


def _is_value(value: Any) -> bool:
    return _is_plain(value) or _is_interval(value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _is_interval(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(end, (int, float)) for end in value)
