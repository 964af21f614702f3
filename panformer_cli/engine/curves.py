"""Training curves from the `metrics.jsonl` of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from panformer_cli.errors import PanformerError
from panformer_cli.pages.chart import Chart, Series
from panformer_cli.storage.plain_json import parse as parse_json

Row = Mapping[str, Any]

_QUALITY = {"pq": "PQ", "pq_things": "PQ things", "pq_stuff": "PQ stuff", "sq": "SQ", "rq": "RQ"}


def read_metrics(path: Path) -> list[Row]:
    """Return the rows of a `metrics.jsonl`, sorted by step; if a resumed run repeated a step, only its last row.

    A truncated last line, which a killed run leaves, is ignored.

    Raises:
        PanformerError: The file is missing, or another line is not a row of metrics.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise PanformerError(
            f"the metrics {path} cannot be read: {error.strerror}; expected the metrics.jsonl of a training run"
        ) from error
    rows: dict[tuple[str, float], Row] = {}
    for number, line in enumerate(lines, start=1):
        row = _row(line)
        if row is not None:
            rows[row["kind"], row["step"]] = row
        elif line.strip() and number < len(lines):
            raise PanformerError(
                f'{path}, line {number} is not a row of metrics; expected JSON with "kind" and "step"; remove that line'
            )
    return sorted(rows.values(), key=lambda row: float(row["step"]))


def curves(rows: Sequence[Row]) -> list[Chart]:
    """Return charts of quality, total loss, loss terms, learning rate and gradient norm; empty charts are omitted."""
    train = [row for row in rows if row["kind"] == "train"]
    evaluated = [_with_classes(row) for row in rows if row["kind"] == "eval"]
    parts = list(dict.fromkeys(name for row in train for name in _losses(row)))
    part_series = [
        Series(name, [(row["step"], _losses(row)[name]) for row in train if name in _losses(row)]) for name in parts
    ]
    charts = [
        Chart("Panoptic quality", _series(evaluated, _QUALITY), "step", "percent"),
        Chart("Loss", _series(train, {"loss": "loss"}), "step", "loss"),
        Chart("Parts of the loss", part_series, "step", "loss", log_y=True),
        Chart("Learning rate", _series(train, {"lr": "learning rate"}), "step", "learning rate"),
        Chart("Gradient norm before clipping", _series(train, {"gradient_norm": "gradient norm"}), "step", "L2 norm"),
    ]
    return [chart for chart in charts if chart.series]


def _row(line: str) -> Row | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    usable = isinstance(row, dict) and isinstance(row.get("kind"), str) and _is_number(row.get("step"))
    return row if usable else None


def _with_classes(row: Row) -> Row:
    """Return the metrics of an evaluation without those of groups that have no classes, whose value is 0.

    The row has the number of classes only of all together. If all the classes are stuff, PQ is that of stuff, and 0 for
    things; the same holds the other way round. If PQ is 0 for all, both groups are kept.
    """
    without = {name for name in _QUALITY if row.get("n") == 0}
    for empty, other in (("pq_things", "pq_stuff"), ("pq_stuff", "pq_things")):
        if row.get(empty) == 0 and row.get("pq") == row.get(other) != 0:
            without.add(empty)
    return {key: value for key, value in row.items() if key not in without}


def _losses(row: Row) -> dict[str, float]:
    parts = row.get("losses")
    return {name: value for name, value in parts.items() if _is_number(value)} if isinstance(parts, dict) else {}


def _series(rows: Sequence[Row], names: Mapping[str, str]) -> list[Series]:
    series = [
        Series(shown, [(row["step"], row[name]) for row in rows if _is_number(row.get(name))])
        for name, shown in names.items()
    ]
    return [curve for curve in series if curve.points]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
