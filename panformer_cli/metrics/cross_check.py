"""Compares PQ with COCO's panopticapi on the same files; a difference is an error."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

from panformer_cli.errors import PanformerError
from panformer_cli.metrics.quality import PanopticResult

TOLERANCE = 1e-12
"""Maximum difference of PQ, SQ or RQ, each 0..1; more than the rounding of sums for any data set."""


def cross_check(
    annotation: Path,
    truth_pngs: Path,
    predictions: Path,
    predicted_pngs: Path,
    result: PanopticResult,
    partners: Mapping[int | str, int | str] | None = None,
    category_ids: Mapping[int, int] | None = None,
) -> None:
    """Compare `result` with the result of panopticapi on the same files.

    PQ, SQ and RQ of each category, and their means over all, things and stuff, are compared.

    Args:
        annotation: COCO panoptic JSON of the ground truth.
        truth_pngs: its PNG folder.
        predictions: COCO panoptic JSON of the predictions.
        predicted_pngs: its PNG folder.
        result: the PQ of these files.
        partners: the image id in the predictions for each image id of the ground truth; None if they are equal.
        category_ids: the category id in the ground truth for each one in the predictions; None if they are equal.

    Raises:
        PanformerError: panopticapi is not installed or cannot read the files, or a metric differs by more than 1e-12.
    """
    statistics, categories = _statistics(annotation, truth_pngs, predictions, predicted_pngs, partners, category_ids)
    for name, ids, ours in _metrics(result):
        theirs = _average(statistics, {number: categories[number] for number in ids})
        for metric, value in ours.items():
            if not abs(value - theirs[metric]) <= TOLERANCE:
                raise PanformerError(
                    f"{predictions}: {metric.upper()} of {name} is {value!r} here and {theirs[metric]!r} in "
                    f"panopticapi; expected a difference of at most {TOLERANCE}; please report it with these files"
                )


def _metrics(result: PanopticResult) -> Iterator[tuple[str, list[int], dict[str, float]]]:
    """Yield name, category ids and metrics in 0..1: first of each category, then of the groups."""
    rows = result.categories
    for row in rows:
        name, counted = f"category {row.category_id} ({row.name})", int(row.counts)
        yield name, [row.category_id], {"pq": row.pq / 100, "sq": row.sq / 100, "rq": row.rq / 100, "n": counted}
    things, stuff = [row.category_id for row in rows if row.is_thing], [r.category_id for r in rows if not r.is_thing]
    groups = (("things", things, result.things), ("stuff", stuff, result.stuff), ("all", things + stuff, result.all))
    for name, ids, mean in groups:
        yield name, ids, {"pq": mean.pq / 100, "sq": mean.sq / 100, "rq": mean.rq / 100, "n": mean.n}


def _average(statistics: Any, categories: dict[int, Any]) -> dict[str, float]:
    """Return panopticapi's means; zeros if no category counts, since panopticapi divides by their number."""
    counts = [statistics[number] for number in categories]
    if not any(count.tp + count.fp + count.fn for count in counts):
        return {"pq": 0.0, "sq": 0.0, "rq": 0.0, "n": 0}
    means: dict[str, float] = statistics.pq_average(categories, None)[0]
    return means


def _statistics(
    annotation: Path,
    truth_pngs: Path,
    predictions: Path,
    predicted_pngs: Path,
    partners: Mapping[int | str, int | str] | None,
    category_ids: Mapping[int, int] | None,
) -> tuple[Any, dict[int, Any]]:
    """Return panopticapi's counts over all images, and its category table by id.

    `pq_compute` itself is not used, because it prints and fails on data sets without stuff or without things. Threads
    replace its processes.
    """
    evaluation = panopticapi()
    content = json.loads(annotation.read_text(encoding="utf-8"))
    categories = {row["id"]: row for row in content["categories"]}
    predicted = {row["image_id"]: row for row in json.loads(predictions.read_text(encoding="utf-8"))["annotations"]}
    for segment in (segment for row in predicted.values() for segment in row["segments_info"]):
        segment["category_id"] = (category_ids or {}).get(segment["category_id"], segment["category_id"])
    ids = partners or {number: number for number in predicted}
    pairs = [(row, predicted[ids[row["image_id"]]]) for row in content["annotations"]]

    def count(pairs: list[Any]) -> Any:
        return evaluation.pq_compute_single_core(0, pairs, str(truth_pngs), str(predicted_pngs), categories)

    workers = os.cpu_count() or 1
    total = evaluation.PQStat()
    with redirect_stdout(StringIO()), ThreadPoolExecutor(workers) as pool:
        for part in pool.map(count, [pairs[start::workers] for start in range(workers)]):
            total += part
    return total, categories


def panopticapi() -> Any:
    """Return the module `panopticapi.evaluation`; PanformerError if it is not installed."""
    try:
        return import_module("panopticapi.evaluation")
    except ImportError as error:
        raise PanformerError(
            "--cross-check needs COCO's panopticapi, which is not installed; install it with "
            "`pip install --no-deps panopticapi-lite`, which contains the same module, or leave out --cross-check"
        ) from error
