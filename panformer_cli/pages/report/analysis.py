"""The reasons behind PQ on the page: charts of what was lost and of the scores, and tables of everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.pages.report.charts import Bar, CalibrationBin, bar_cell, bars_html, calibration_svg
from panformer_cli.pages.report.generic import tables_of, title_of
from panformer_cli.pages.report.page import Part
from panformer_cli.pages.report.tables import Cell, DataTable

MOST_CONFUSIONS = 40
"""Pairs of categories in a table; the largest come first, the rest is in the JSON."""


def analysis_parts(analysis: Mapping[str, Any], categories: CategoryTable) -> list[Part]:
    """A part of the page for every part of `PanopticAnalysis.to_json`; one that is not known gets plain tables."""
    gains = analysis.get("cause_gains", {})
    makers: dict[str, Callable[[Any], Part]] = {
        "causes": lambda content: _causes(content, gains),
        "sizes": _sizes,
        "per_class": _mending,
        "confusion": lambda content: _confusion(content, categories),
        "calibration": _calibration,
        "worst_images": _worst,
    }
    return [
        makers[key](content) if key in makers else _plain(key, content)
        for key, content in analysis.items()
        if key != "cause_gains" or "causes" not in analysis
    ]


def _causes(causes: Mapping[str, Mapping[str, float]], gains: Mapping[str, float]) -> Part:
    lost = causes["all"]["total"]
    names = [name for name in causes["all"] if name != "total"]
    bars = [Bar(title_of(name), causes["all"][name]) for name in names]
    rows = [[title_of(name), *(causes[group][name] for group in causes), gains.get(name)] for name in names]
    headers = ["Cause", *(title_of(group) for group in causes), "Gain if mended"]
    text = (
        f"{lost:.1f} of 100 points of PQ were lost. Every lost point has one cause, and the parts add up. Mending one "
        "cause also changes what the others weigh, so its gain is another number."
    )
    table = DataTable("Lost points by cause", headers, rows)
    return Part("Causes", "Where the points of PQ went", text, [bars_html(bars, "Lost points by cause")], [table])


def _sizes(sizes: Mapping[str, Mapping[str, float]]) -> Part:
    bars = [Bar(title_of(size), float(row["total"]), detail=f"{row['tp']} matched") for size, row in sizes.items()]
    text = "Small is below 32 x 32 pixels, medium below 96 x 96; points of PQ lost on segments of each size."
    tables = list(tables_of("Lost points by size", sizes))
    return Part("Sizes", "By size", text, [bars_html(bars, "Lost points by size")], tables)


def _mending(rows: Sequence[Mapping[str, Any]]) -> Part:
    causes = [name for name in rows[0]["lost"] if name != "total"] if rows else []
    most = max((row["gain"] for row in rows), default=0.0) or 1.0
    cells = [
        [
            str(row["name"]),
            "thing" if row["is_thing"] else "stuff",
            float(row["pq"]),
            title_of(row["mend"]),
            bar_cell(row["gain"], most, "lost", decimals=2),
            *(float(row["lost"][cause]) for cause in causes),
        ]
        for row in rows
    ]
    headers = ["Class", "Kind", "PQ", "Mend first", "Gain", *map(title_of, causes)]
    text = (
        "By how much the mean PQ would rise if one cause of one class were mended: the best cause of every class. The "
        "columns of causes are points that the class's own PQ lost."
    )
    return Part("Gains", "What mending a class would give", text, tables=[DataTable("Gains", headers, cells)])


def _confusion(confusion: Mapping[str, Sequence[Sequence[Any]]], categories: CategoryTable) -> Part:
    def name(category_id: int | None, nothing: str) -> str:
        known = category_id is not None and category_id in categories
        return categories.by_id(category_id).name if category_id is not None and known else nothing

    tables = []
    for kind, cells in confusion.items():
        confused = [
            (truth, found, count) for truth, found, count in cells if truth != found and None not in (truth, found)
        ]
        rows: list[list[Cell]] = [[name(truth, "–"), name(found, "–"), count] for truth, found, count in confused]
        caption = f"Confused {kind}"
        note = f"The {MOST_CONFUSIONS} largest of {len(rows):,}." if len(rows) > MOST_CONFUSIONS else ""
        tables.append(
            DataTable(caption, ["Ground truth", "Predicted as", title_of(kind)], rows[:MOST_CONFUSIONS], note)
        )
    text = "Pairs of different classes in the same place: of whole segments, and of single pixels."
    return Part("Confusion", "What was taken for what", text, tables=tables)


def _calibration(calibration: Mapping[str, Mapping[str, Any]]) -> Part:
    figures, tables = [], []
    for group, content in calibration.items():
        rows = [row for row in content["bins"] if row["n"]]
        if not rows:
            continue
        error = content.get("ece")
        words = f"{title_of(group)}: {content['n']:,} segments, expected calibration error {error:.3f}"
        bins = [CalibrationBin(row["score"], row["matched"], row["n"]) for row in rows]
        figures.append(f"<figure>{calibration_svg(bins, words)}<figcaption>{words}</figcaption></figure>")
        cells: list[list[Cell]] = [
            [f"{row['from']:.1f} to {row['to']:.1f}", row["n"], row["score"], row["matched"], row["iou"]]
            for row in rows
        ]
        headers = ["Score", "Segments", "Mean score", "Matched", "IoU of the matched"]
        tables.append(DataTable(f"Scores of {group}", headers, cells))
    text = (
        "On the dashed line a score is the share of segments that match; above it scores are too low, below too high."
        if figures
        else "The predictions have no scores."
    )
    charts = [f'<div class="row">{"".join(figures)}</div>'] if figures else []
    return Part("Scores", "Whether scores mean what they say", text, charts, tables)


def _worst(images: Sequence[Mapping[str, Any]]) -> Part:
    names = ("file_name", "pq", "lost")
    rows = [{**{name: image[name] for name in names}, **image["causes"]} for image in images]
    text = "Lost segments: 1 - IoU of every pair, and a half for every false and every missed one; with their causes."
    return Part("Worst", "The images that lose most", text, tables=list(tables_of("Worst images", rows)))


def _plain(key: str, content: Any) -> Part:
    return Part(title_of(key), title_of(key), tables=list(tables_of(title_of(key), content)))
