"""What of the figures of an evaluation stands where on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.pages.report.analysis import analysis_parts
from panformer_cli.pages.report.charts import Bar, bar_cell, bars_html
from panformer_cli.pages.report.generic import tables_of, title_of
from panformer_cli.pages.report.page import Headline, Part
from panformer_cli.pages.report.tables import Cell, DataTable

GROUPS = ("all", "things", "stuff")
_SHOWN_APART = {"categories", "panoptic", "intervals", "analysis"}
_LABELS = {"pq": "PQ", "sq": "SQ", "rq": "RQ", "bbox": "Box AP", "segm": "Mask AP"}


def facts(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was evaluated: the plain values of metrics.json, such as checkpoint, annotation and number of images."""
    return [(title_of(key), f"{value:,}" if isinstance(value, int) else str(value)) for key, value in _plain(figures)]


def headlines(figures: Mapping[str, Any]) -> list[Headline]:
    """PQ, SQ and RQ of all categories, PQ of things and stuff, and the AP where it was measured."""
    panoptic, intervals = figures.get("panoptic", {}), figures.get("intervals", {})
    wanted = [(_LABELS[name], "all", name) for name in ("pq", "sq", "rq")]
    wanted += [("PQ things", "things", "pq"), ("PQ stuff", "stuff", "pq")]
    rows = [
        Headline(name, f"{panoptic[group][key]:.1f}", _interval(intervals, group, key))
        for name, group, key in wanted
        if group in panoptic
    ]
    return rows + [
        Headline(_LABELS[metric], f"{figures[metric]['AP']:.1f}")
        for metric in ("bbox", "segm")
        if isinstance(figures.get(metric), Mapping) and figures[metric].get("AP") is not None
    ]


def parts(figures: Mapping[str, Any], analysis: Mapping[str, Any] | None, categories: CategoryTable) -> list[Part]:
    """Everything below the headlines, in its order."""
    shown = analysis_parts(analysis, categories) if analysis else []
    panoptic = figures.get("panoptic", {})
    if panoptic.get("per_class"):
        shown.insert(min(1, len(shown)), _classes(list(panoptic["per_class"].values())))
    tables = [_groups(panoptic, figures.get("intervals", {}))] if panoptic else []
    sizes = {size: groups["all"] for size, groups in panoptic.get("sizes", {}).items()}
    tables += tables_of("PQ by size", sizes)
    for key, value in figures.items():
        if key == "disagreements" and not value["images"]:
            continue
        if key not in _SHOWN_APART and not isinstance(value, (str, int, float)):
            tables += tables_of(_LABELS.get(key, title_of(key)), value)
    return [*shown, Part("Figures", "All figures", "Values are percent where nothing else is said.", tables=tables)]


def _plain(figures: Mapping[str, Any]) -> list[tuple[str, str | int | float]]:
    return [(key, value) for key, value in figures.items() if isinstance(value, (str, int, float))]


def _groups(panoptic: Mapping[str, Any], intervals: Mapping[str, Any]) -> DataTable:
    rows: list[Sequence[Cell]] = []
    for group in GROUPS:
        row = panoptic.get(group)
        if row:
            cells = [(float(row[key]), _interval(intervals, group, key)) for key in ("pq", "sq", "rq")]
            rows.append([title_of(group), *(cell for pair in cells for cell in pair), int(row["n"])])
    headers = ["Group", "PQ", "95 %", "SQ", "95 %", "RQ", "95 %", "Classes"]
    kept = [i for i, name in enumerate(headers) if name != "95 %" or any(row[i] for row in rows)]
    return DataTable("Panoptic quality", [headers[i] for i in kept], [[row[i] for i in kept] for row in rows])


def _interval(intervals: Mapping[str, Any], group: str, key: str) -> str:
    ends = intervals.get(group, {}).get(key)
    return f"{ends[0]:.1f} to {ends[1]:.1f}" if ends else ""


def _classes(rows: Sequence[Mapping[str, Any]]) -> Part:
    ordered = sorted(rows, key=lambda row: -row["pq"])
    bars = [
        Bar(
            str(row["name"]),
            float(row["pq"]),
            _style(row),
            f"{row['tp']} matched, {row['fp']} false, {row['fn']} missed",
        )
        for row in ordered
    ]
    cells = [
        (
            str(row["name"]),
            "thing" if row["is_thing"] else "stuff",
            bar_cell(row["pq"], 100, _style(row)),
            float(row["sq"]),
            float(row["rq"]),
            int(row["tp"]),
            int(row["fp"]),
            int(row["fn"]),
        )
        for row in ordered
    ]
    table = DataTable("Classes", ["Class", "Kind", "PQ", "SQ", "RQ", "Matched", "False", "Missed"], cells)
    text = "Blue bars are things, green ones stuff; the table has the counts behind them."
    return Part("Classes", "PQ by class", text, [bars_html(bars, "PQ by class, percent", 100)], [table])


def _style(row: Mapping[str, Any]) -> str:
    return "things" if row["is_thing"] else "stuff"
