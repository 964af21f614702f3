"""Tables that sort by a click on a heading and filter by a text; `tables.js` does both in the browser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

FILTER_FROM = 9
"""Rows from which on a table gets a box to filter it."""


@dataclass(frozen=True)
class Markup:
    """A cell of finished HTML; whoever makes it escapes its texts.

    value: what the column is sorted by.
    """

    html: str
    value: str | float


Cell = str | int | float | Markup | None


@dataclass(frozen=True)
class DataTable:
    """A table of figures.

    caption: says what it holds; shown above it, and read out by screen readers.
    rows: floats get one decimal, or three where all are 1 or less; None and NaN are a dash and sort last.
    note: a sentence below the caption.
    """

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


def table_html(table: DataTable) -> str:
    """The table with its caption, and with a box to filter it when it is long. All text is escaped."""
    columns = [[row[i] for row in table.rows] for i in range(len(table.headers))]
    numeric = [all(not isinstance(_value(cell), str) for cell in column) for column in columns]
    decimals = _decimals(table)
    head = "".join(
        f'<th scope="col"{_right(right)}><button type="button">{escape(name)}</button></th>'
        for name, right in zip(table.headers, numeric, strict=True)
    )
    body = "".join(_row(row, numeric, decimals) for row in table.rows)
    return (
        f'<div class="table">{_filter(table)}<div class="wide" tabindex="0" role="region" '
        f'aria-label="{escape(table.caption)}"><table><caption>{escape(table.caption)}{_note(table)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></div>"
    )


def _row(row: Sequence[Cell], numeric: Sequence[bool], decimals: int) -> str:
    return "<tr>" + "".join(_cell(cell, right, decimals) for cell, right in zip(row, numeric, strict=True)) + "</tr>"


def _cell(cell: Cell, right: bool, decimals: int) -> str:
    if isinstance(cell, Markup):
        return f'<td{_right(right)} data-value="{escape(str(cell.value))}">{cell.html}</td>'
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return f'<td{_right(right)} data-value="">–</td>'
    if isinstance(cell, float):
        return f'<td{_right(right)} data-value="{cell!r}">{cell:.{decimals}f}</td>'
    if isinstance(cell, int):
        return f'<td{_right(right)} data-value="{int(cell)}">{int(cell):,}</td>'
    return f"<td>{escape(cell)}</td>"


def _filter(table: DataTable) -> str:
    if len(table.rows) < FILTER_FROM:
        return ""
    return (
        f'<p class="filter"><label>Filter <input type="search" autocomplete="off" '
        f'aria-label="Filter: {escape(table.caption)}"></label> <output>{len(table.rows):,} rows</output></p>'
    )


def _note(table: DataTable) -> str:
    return f"<small>{escape(table.note)}</small>" if table.note else ""


def _right(right: bool) -> str:
    return ' class="number"' if right else ""


def _value(cell: Cell) -> str | float | None:
    return cell.value if isinstance(cell, Markup) else cell


def _decimals(table: DataTable) -> int:
    """Percents need one decimal, shares of one three."""
    values = [abs(cell) for row in table.rows for cell in row if isinstance(cell, float) and math.isfinite(cell)]
    return 3 if 0 < max(values, default=0.0) <= 1 else 1
