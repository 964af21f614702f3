"""The summary of a prepared folder as a page that opens from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1.5rem; font: 15px/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; margin: 0.5rem 0 2rem; }
th, td { padding: 0.2rem 0.9rem 0.2rem 0; text-align: right; border-bottom: 1px solid #8884;
  font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
"""


def summary_page(name: str, summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """HTML of `SplitSummary.to_json` by split, self-contained.

    name: of the data set, shown as the heading.
    """
    sections = (f"<h2>{escape(split)}</h2>{_totals(row)}{_classes(row)}" for split, row in summaries.items())
    parts = "".join(sections)
    head = f'<meta charset="utf-8"><title>{escape(name)}</title><style>{_STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body><h1>{escape(name)}</h1>{parts}</body></html>"


def _totals(content: Mapping[str, Any]) -> str:
    keys = ("images", "segments", "things", "stuff", "crowd")
    rows = [(key, f"{content[key]:,}") for key in keys] + [("void", f"{100 * content['void_share']:.1f} %")]
    return _table(("", ""), rows)


def _classes(content: Mapping[str, Any]) -> str:
    columns = ("category", "kind", "segments", "images", "crowd", "pixels")
    rows = [
        (row["name"], "thing" if row["isthing"] else "stuff", *(f"{row[key]:,}" for key in columns[2:]))
        for row in sorted(content["categories"], key=lambda row: -int(row["segments"]))
    ]
    return _table(columns, rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
