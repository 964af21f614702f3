"""panopticapi, COCO's own code, beside our PQ: the same figures on the same files, or an error."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

from panformer_cli.errors import PanformerError
from panformer_cli.metrics.quality import PanopticResult

TOLERANCE = 1e-12
"""The largest difference of PQ, SQ or RQ, each between 0 and 1. Sums of doubles differ by less for any data set."""


def cross_check(
    annotation: Path, truth_pngs: Path, predictions: Path, predicted_pngs: Path, result: PanopticResult
) -> None:
    """Compare `result` with what panopticapi makes of the same files.

    Every category's PQ, SQ and RQ, and the means of all, things and stuff, are compared.

    annotation, predictions: COCO panoptic JSONs. truth_pngs, predicted_pngs: the folders of their PNGs.

    Raises:
        PanformerError: panopticapi is not installed or cannot read the files, or a figure differs by over 1e-12.
    """
    statistics, categories = _statistics(annotation, truth_pngs, predictions, predicted_pngs)
    for name, ids, ours in _figures(result):
        theirs = _average(statistics, {number: categories[number] for number in ids})
        for figure, value in ours.items():
            if not abs(value - theirs[figure]) <= TOLERANCE:
                raise PanformerError(
                    f"{predictions}: {figure.upper()} of {name} is {value!r} here and {theirs[figure]!r} in "
                    f"panopticapi; expected a difference of {TOLERANCE} at most; please report it with these files"
                )


def _figures(result: PanopticResult) -> Iterator[tuple[str, list[int], dict[str, float]]]:
    """Our figures, 0 to 1, with a name and the ids of the categories that they are of; single categories come first."""
    rows = result.categories
    for row in rows:
        name, counted = f"category {row.category_id} ({row.name})", int(row.counts)
        yield name, [row.category_id], {"pq": row.pq / 100, "sq": row.sq / 100, "rq": row.rq / 100, "n": counted}
    things, stuff = [row.category_id for row in rows if row.is_thing], [r.category_id for r in rows if not r.is_thing]
    groups = (("things", things, result.things), ("stuff", stuff, result.stuff), ("all", things + stuff, result.all))
    for name, ids, mean in groups:
        yield name, ids, {"pq": mean.pq / 100, "sq": mean.sq / 100, "rq": mean.rq / 100, "n": mean.n}


def _average(statistics: Any, categories: dict[int, Any]) -> dict[str, float]:
    """panopticapi's means; zeros where no category counts, since it divides by their number."""
    counts = [statistics[number] for number in categories]
    if not any(count.tp + count.fp + count.fn for count in counts):
        return {"pq": 0.0, "sq": 0.0, "rq": 0.0, "n": 0}
    means: dict[str, float] = statistics.pq_average(categories, None)[0]
    return means


def _statistics(
    annotation: Path, truth_pngs: Path, predictions: Path, predicted_pngs: Path
) -> tuple[Any, dict[int, Any]]:
    """panopticapi's counts of all images, and its table of categories by id.

    Images are paired and counted as by its `pq_compute`, which itself fails on a data set without stuff or things, and
    prints. Threads take the place of its processes.
    """
    evaluation = panopticapi()
    content = json.loads(annotation.read_text(encoding="utf-8"))
    categories = {row["id"]: row for row in content["categories"]}
    predicted = {row["image_id"]: row for row in json.loads(predictions.read_text(encoding="utf-8"))["annotations"]}
    pairs = [(row, predicted[row["image_id"]]) for row in content["annotations"]]

    def count(pairs: list[Any]) -> Any:
        return evaluation.pq_compute_single_core(0, pairs, str(truth_pngs), str(predicted_pngs), categories)

    workers = os.cpu_count() or 1
    total = evaluation.PQStat()
    with redirect_stdout(StringIO()), ThreadPoolExecutor(workers) as pool:
        for part in pool.map(count, [pairs[start::workers] for start in range(workers)]):
            total += part
    return total, categories


def panopticapi() -> Any:
    """Its module of the evaluation; PanformerError where it is not installed."""
    try:
        return import_module("panopticapi.evaluation")
    except ImportError as error:
        raise PanformerError(
            "the cross-check needs COCO's panopticapi, which is not installed; install it with "
            "`pip install --no-deps panopticapi-lite`, which has the same module, or leave out --cross-check"
        ) from error
