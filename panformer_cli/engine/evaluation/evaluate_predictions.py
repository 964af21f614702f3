"""Figures of predictions on disk: two panoptic JSONs with their PNGs, no model and no images."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panformer_cli.data.coco.panoptic_pairs import PanopticPairs
from panformer_cli.data.layout import photo_folder
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.evaluation.evaluate import (
    FiguresRequest,
    joined,
    warn_of_disagreements,
    write_figures,
)
from panformer_cli.engine.results import RECORDS, wait_for_lines, write_records
from panformer_cli.engine.runs import check_results_folder
from panformer_cli.metrics.boundary import with_boundaries
from panformer_cli.metrics.evaluator import Evaluator
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.reporting import Reporter
from panformer_cli.storage.result_log import ResultLog


@dataclass(frozen=True)
class PredictionsRequest(FiguresRequest):
    """What to measure.

    predictions, annotations: panoptic JSONs. pred_folder, gt_folder: their PNGs; None: beside them, as
        `PanopticPairs`.
    out: folder of the figures.
    metrics: none of instances, which panoptic predictions do not have.
    """

    predictions: Path
    annotations: Path
    out: Path
    pred_folder: Path | None = None
    gt_folder: Path | None = None

    def open(self) -> PanopticPairs:
        """The pairs to compare; errors as `PanopticPairs`."""
        return PanopticPairs(self.annotations, self.predictions, self.gt_folder, self.pred_folder)


def evaluate_predictions(request: PredictionsRequest, process: Process, reporter: Reporter) -> dict[str, Any]:
    """Count and write `OUT/metrics.json`, `OUT/analysis.json` and `OUT/records.jsonl`; return the first, on all ranks.

    Raises:
        PanformerError: JSONs or PNGs cannot be used, or do not go together; the sentence names the image.
    """
    process.on_first(lambda: check_results_folder(request.out))
    pairs = request.open()
    names = {
        "annotation": request.annotations,
        "truth_pngs": pairs.truth_pngs,
        "photos": photo_folder(request.annotations),
        "predictions": request.predictions,
        "predicted_pngs": pairs.predicted_pngs,
    }
    with process.temporary_folder() as folder:  # not in OUT, where a failure leaves what was there before
        with closing(ResultLog(folder, process.rank, process.world_size)) as log:
            evaluator = joined(_count(pairs, log, process, request, reporter), process)
        wait_for_lines(log, process)
        process.on_first(lambda: write_records(request.out / RECORDS, log))
    figures = process.on_first(lambda: write_figures(request.out, names, evaluator))
    warn_of_disagreements(figures, reporter)
    return figures


def _count(
    pairs: PanopticPairs, log: ResultLog, process: Process, request: PredictionsRequest, reporter: Reporter
) -> Evaluator:
    """Count this process's share of the images."""
    evaluator = Evaluator(pairs.categories, request.metrics, request.resamples)
    own = range(process.rank, len(pairs), process.world_size)
    with reporter.progress("Counting", len(own)) as progress:
        for index in own:
            prediction, truth = pairs[index]
            info = pairs.image_info(index)
            record = compare(prediction, truth, info.id, info.file_name)
            if "boundary" in evaluator.metrics:
                record = with_boundaries(record, prediction, truth)
            evaluator.add(record)
            log.append(index, {"record": record.to_json()})
            progress.advance()
    return evaluator
