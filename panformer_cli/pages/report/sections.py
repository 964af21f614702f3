"""The sections of the report: which metrics are shown where."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.metrics.bootstrap import GROUPS
from panformer_cli.metrics.quality import shown
from panformer_cli.pages.base import Bar, Cell, Table, end_of_path, format_number
from panformer_cli.pages.report.json_tables import tables_of, title_of
from panformer_cli.pages.report.page import CalibrationBin, Section
from panformer_cli.wording import interval_text

MAX_CONFUSIONS = 40
"""Number of class pairs per table, the most frequent first; analysis.json has all of them."""

_NOT_TABLES = {"categories", "panoptic", "intervals", "analysis", "settings"}
"""Metrics that are shown elsewhere, and the settings, from which an interrupted evaluation resumes."""
_PATHS = {"checkpoint", "annotation", "predictions"}
_FOLDERS = {"photos", "truth_pngs", "predicted_pngs"}
_ORDER = ("causes", "sizes", "confusion", "per_class", "worst_images", "calibration")
"""Order of the sections; two that are not wide stand side by side."""
_COUNTS = ("tp", "fp", "fn")
_LABELS = {"pq": "PQ", "sq": "SQ", "rq": "RQ", "bbox": "Box AP", "segm": "Mask AP"}

Json = Mapping[str, Any]


def facts(metrics: Json) -> list[tuple[str, str]]:
    """Return name and value of the plain values of metrics.json, such as checkpoint and number of images.

    Of the paths, only the ends of those that say what was evaluated are returned.
    """
    plain = {
        key: value for key, value in metrics.items() if isinstance(value, (str, int, float)) and key not in _FOLDERS
    }
    return [(title_of(key), _fact(key, value)) for key, value in plain.items()]


def _fact(key: str, value: str | float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return end_of_path(str(value)) if key in _PATHS else str(value)


def headlines(metrics: Json) -> list[tuple[str, str, str]]:
    """Return name, value and interval of PQ, SQ, RQ, the PQ of things and of stuff, and AP if it was computed."""
    panoptic, intervals = metrics.get("panoptic", {}), metrics.get("intervals", {})
    chosen = [(_LABELS[key], "all", key) for key in ("pq", "sq", "rq")]
    chosen += [("PQ things", "things", "pq"), ("PQ stuff", "stuff", "pq")]
    rows = [
        (name, format_number(shown(panoptic[group])[key]), _interval(intervals, panoptic, group, key))
        for name, group, key in chosen
        if group in panoptic
    ]
    return rows + [
        (_LABELS[kind], f"{metrics[kind]['AP']:.1f}", "")
        for kind in ("bbox", "segm")
        if isinstance(metrics.get(kind), Mapping) and metrics[kind].get("AP") is not None
    ]


def sections(metrics: Json, analysis: Json, categories: CategoryTable) -> list[Section]:
    """Return everything below the headlines, in the order of the page."""
    parts = analysis_sections(analysis, categories)
    panoptic = metrics.get("panoptic", {})
    if panoptic.get("per_class"):
        parts.insert(min(2, len(parts)), _classes(list(panoptic["per_class"].values())))
    return [
        *parts,
        Section(
            "Metrics",
            "All metrics",
            "Values are percentages unless stated otherwise.",
            tables=_all_metrics(metrics),
            is_wide=True,
        ),
    ]


def analysis_sections(analysis: Json, categories: CategoryTable) -> list[Section]:
    """Return a section for every part of `PanopticAnalysis.to_json`; unknown parts become plain tables."""
    gains = analysis.get("cause_gains", {})
    makers: dict[str, Callable[[Any], Section]] = {
        "causes": lambda content: _causes(content, gains),
        "sizes": _sizes,
        "per_class": _potential_gains,
        "confusion": lambda content: _confusion(content, categories),
        "calibration": _calibration,
        "worst_images": _worst_images,
    }
    keys = sorted(analysis, key=lambda key: _ORDER.index(key) if key in _ORDER else len(_ORDER))
    return [
        makers[key](analysis[key]) if key in makers else _plain(key, analysis[key])
        for key in keys
        if key != "cause_gains" or "causes" not in analysis
    ]


def _all_metrics(metrics: Json) -> list[Table]:
    panoptic = metrics.get("panoptic", {})
    tables = [_groups(panoptic, metrics.get("intervals", {}))] if panoptic else []
    sizes = panoptic.get("sizes", {})
    tables += tables_of("PQ by size", {size: shown(groups["all"]) for size, groups in sizes.items()})
    for key, value in metrics.items():
        is_empty = key == "disagreements" and not value["images"]
        if key not in _NOT_TABLES and not is_empty and not isinstance(value, (str, int, float)):
            tables += tables_of(_LABELS.get(key, title_of(key)), _shown(value))
    return tables


def _shown(content: Any) -> Any:
    """Return a tree of metrics in which those of groups without classes are None."""
    if not isinstance(content, Mapping):
        return content
    return shown({key: _shown(value) for key, value in content.items()})


def _groups(panoptic: Json, intervals: Json) -> Table:
    rows: list[list[Cell]] = []
    for group in GROUPS:
        if group in panoptic:
            row = shown(panoptic[group])
            cells = [(row[key], _interval(intervals, panoptic, group, key)) for key in ("pq", "sq", "rq")]
            rows.append([title_of(group), *(cell for pair in cells for cell in pair), int(row["n"])])
    headers = ["Group", "PQ", "95% CI", "SQ", "95% CI", "RQ", "95% CI", "Classes"]
    kept = [i for i, name in enumerate(headers) if name != "95% CI" or any(row[i] for row in rows)]
    return Table("Panoptic quality", [headers[i] for i in kept], [[row[i] for i in kept] for row in rows])


def _interval(intervals: Json, panoptic: Json, group: str, key: str) -> str:
    """Return the interval in words; "" if it was not computed or the group has no classes."""
    ends = intervals.get(group, {}).get(key)
    return interval_text(ends) if ends and panoptic[group]["n"] else ""


def _classes(rows: Sequence[Json]) -> Section:
    ordered = sorted(rows, key=lambda row: -row["pq"])
    bars = [Bar(float(row["pq"]), 100, "things" if row["is_thing"] else "stuff") for row in ordered]
    cells: list[list[Cell]] = [
        [
            str(row["name"]),
            "thing" if row["is_thing"] else "stuff",
            bar,
            float(row["sq"]),
            float(row["rq"]),
            *(int(row[key]) for key in ("tp", "fp", "fn")),
        ]
        for row, bar in zip(ordered, bars, strict=True)
    ]
    return Section(
        "Classes",
        "PQ by class",
        "Things are blue, stuff is green.",
        tables=[Table("Classes", ["Class", "Type", "PQ", "SQ", "RQ", "TP", "FP", "FN"], cells)],
    )


def _causes(causes: Mapping[str, Mapping[str, float]], gains: Mapping[str, float]) -> Section:
    lost = {name: points for name, points in causes["all"].items() if name != "total"}
    most = max(lost.values(), default=0.0)
    rows: list[list[Cell]] = [
        [
            title_of(name),
            Bar(points, most),
            *(causes[group][name] for group in causes if group != "all"),
            gains.get(name),
        ]
        for name, points in lost.items()
    ]
    headers = ["Cause", "All", *(title_of(group) for group in causes if group != "all"), "Potential gain"]
    return Section(
        "Causes",
        "Lost PQ by cause",
        f"{causes['all']['total']:.1f} of 100 points of PQ were lost. Every lost point has exactly one cause, so the "
        "causes add up to the total. The potential gain is the increase in PQ if every error with this cause were "
        "fixed; it differs from the lost points because fixing one cause changes the weight of the others.",
        tables=[Table("Lost points by cause", headers, rows)],
    )


def _sizes(sizes: Mapping[str, Mapping[str, float]]) -> Section:
    """Return a table with a column for each size; the numbers of segments are in its note."""
    causes = [key for key in next(iter(sizes.values()), {}) if key not in _COUNTS]
    most = max((float(row["total"]) for row in sizes.values()), default=0.0)
    rows: list[list[Cell]] = [
        [
            title_of(key),
            *(Bar(float(row[key]), most) if key == "total" else row[key] for row in sizes.values()),
        ]
        for key in causes
    ]
    counts = (f"{title_of(size)}: TP {row['tp']}, FP {row['fp']}, FN {row['fn']}." for size, row in sizes.items())
    return Section(
        "Sizes",
        "Lost PQ by size",
        "Points of PQ lost on small (below 32 x 32 pixels), medium (below 96 x 96 pixels) and large segments.",
        tables=[Table("Lost points by size", ["Cause", *map(title_of, sizes)], rows, " ".join(counts))],
    )


def _potential_gains(rows: Sequence[Json]) -> Section:
    causes = [name for name in rows[0]["lost"] if name != "total"] if rows else []
    most = max((row["gain"] for row in rows), default=0.0)
    cells: list[list[Cell]] = [
        [
            str(row["name"]),
            "thing" if row["is_thing"] else "stuff",
            float(row["pq"]),
            title_of(row["cause"]),
            Bar(row["gain"], most, decimals=2),
            *(float(row["lost"][cause]) for cause in causes),
        ]
        for row in rows
    ]
    headers = ["Class", "Type", "PQ", "Fix first", "Gain", *map(title_of, causes)]
    return Section(
        "Gains",
        "Potential gain by class",
        "The increase in mean PQ if the most costly cause of a class were fixed. The other columns are the points of "
        "PQ that the class lost to each cause.",
        tables=[Table("Potential gain", headers, cells)],
        is_wide=True,
    )


def _confusion(confusion: Mapping[str, Sequence[Sequence[Any]]], categories: CategoryTable) -> Section:
    def name(category_id: int) -> str:
        return categories.by_id(category_id).name if category_id in categories else "–"

    tables = []
    for unit, cells in confusion.items():
        rows: list[list[Cell]] = [
            [name(truth), name(predicted), count]
            for truth, predicted, count in cells
            if truth != predicted and None not in (truth, predicted)
        ]
        note = f"The {MAX_CONFUSIONS} most frequent of {len(rows):,} pairs." if len(rows) > MAX_CONFUSIONS else ""
        headers = ["Ground truth", "Predicted as", title_of(unit)]
        tables.append(Table(f"Confused {unit}", headers, rows[:MAX_CONFUSIONS], note))
    text = "Pairs of different classes at the same location, counted in whole segments and in pixels."
    return Section("Confusion", "Confused classes", text, tables=tables)


def _calibration(calibration: Mapping[str, Json]) -> Section:
    diagrams = []
    for group, content in calibration.items():
        rows = [row for row in content["bins"] if row["n"]]
        if not rows:
            continue
        caption = f"{title_of(group)}: {content['n']:,} segments, expected calibration error {content['ece']:.3f}"
        cells: list[list[Cell]] = [
            [f"{row['from']:.1f} to {row['to']:.1f}", row["n"], row["score"], row["matched"], row["iou"]]
            for row in rows
        ]
        headers = ["Score", "Segments", "Mean score", "Matched", "IoU of matches"]
        bins = [CalibrationBin(row["score"], row["matched"], row["n"]) for row in rows]
        diagrams.append((caption, bins, Table(f"Scores of {group}", headers, cells)))
    text = (
        "The fraction of predicted segments that match, by score. Scores are too low above the dashed line, and too "
        "high below it."
    )
    return Section(
        "Calibration",
        "Score calibration",
        text if diagrams else "The predictions have no scores.",
        diagrams=diagrams,
        is_wide=True,
    )


def _worst_images(images: Sequence[Json]) -> Section:
    rows = [{**{key: image[key] for key in ("file_name", "pq", "lost")}, **image["causes"]} for image in images]
    return Section(
        "Worst",
        "Worst images",
        "The images with the largest loss, by cause. A matched pair loses 1 - IoU, a false positive or missed segment "
        "loses 0.5.",
        tables=list(tables_of("Worst images", rows)) or [Table("Worst images", ["File name", "PQ", "Lost"], [])],
        is_wide=True,
    )


def _plain(key: str, content: Any) -> Section:
    return Section(title_of(key), title_of(key), tables=list(tables_of(title_of(key), content)))
