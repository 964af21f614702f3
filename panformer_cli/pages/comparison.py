"""The page of `evaluate compare`: the metrics of two evaluations and their differences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from panformer_cli.metrics.bootstrap import FIGURES, GROUPS, VERDICTS
from panformer_cli.metrics.quality import shown
from panformer_cli.pages.base import Table, format_number, write_page
from panformer_cli.pages.replacing import PAGE, replaced_page
from panformer_cli.wording import interval_text

_GroupRow = tuple[str, float | None, float | None, float | None, str | None]
"""A metric of a group: its name, the value of A and of B, their difference, and its interval."""


def write_comparison(out: Path, content: Mapping[str, Any], note: str) -> Path:
    """Write the page of a comparison to a folder, and return its path. It replaces an earlier page.

    Args:
        out: The folder.
        content: `engine.evaluation.compare.Comparison.to_json`.
        note: Sentence below the headlines; "" for none.

    Raises:
        PanformerError: The page cannot be written.
    """
    first, second = content["a"], content["b"]
    facts = [
        ("A", first["name"]),
        ("B", second["name"]),
        ("Images", f"{content['images']:,}"),
        ("Resamples", f"{content['resamples']:,}"),
    ]
    with replaced_page(out) as folder:
        write_page(
            folder / PAGE,
            "comparison.html",
            "Comparison of two evaluations",
            facts,
            headlines=_headlines(content),
            note=note,
            tables=_tables(content),
        )
    return out / PAGE


def _headlines(content: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, value and interval of each headline; a dash without classes."""
    _, first, second, difference, interval = _group_row(content, "all", "pq")
    rows = []
    for side, pq in (("a", first), ("b", second)):
        own = interval_text(content[side]["intervals"]["all"]["pq"]) if pq is not None else ""
        rows.append((f"PQ of {side.upper()}", format_number(pq), own))
    verdict = VERDICTS[content["verdict"]["all"]] if difference is not None else format_number(None)
    return [
        *rows,
        ("B - A, points", format_number(difference), interval or ""),
        ("Result", _sentence_case(verdict), ""),
    ]


def _tables(content: Mapping[str, Any]) -> list[Table]:
    groups = [_group_row(content, group, name) for group in GROUPS for name in FIGURES]
    classes = [
        (row["name"], "thing" if row["is_thing"] else "stuff", row["first"], row["second"], row["difference"])
        for row in content["per_class"]
    ]
    images = [
        (row["file_name"], row["first"], row["second"], row["difference"])
        for row in (*content["images_gained"], *reversed(content["images_lost"]))
    ]
    tables = [
        Table("Metrics", ("Metric", "A", "B", "B - A", "95% interval of B - A"), groups, "Percent, and points."),
        Table("Classes", ("Class", "Type", "A", "B", "B - A"), classes, "PQ, the largest gain first."),
        Table("Images", ("Image", "A", "B", "B - A"), images, "PQ of the images that changed most."),
    ]
    return [table for table in tables if table.rows]


def _group_row(content: Mapping[str, Any], group: str, name: str) -> _GroupRow:
    """Return a metric of a group; without classes on one side there is no difference."""
    title, difference = f"{name.upper()}, {group}", content["difference"]
    first, second = (shown(content[side][group])[name] for side in ("a", "b"))
    if first is None or second is None:
        return title, first, second, None, None
    return title, first, second, difference[group][name], interval_text(difference["intervals"][group][name])


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]
