"""Figures of predictions on disk: two panoptic JSONs with their PNGs, no model and no images."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from panformer_cli.data.layout import photo_folder
from panformer_cli.data.panoptic_pairs import PanopticPairs
from panformer_cli.engine.evaluation.evaluate import (
    FiguresRequest,
    joined,
    read_metrics,
    warn_of_disagreements,
    write_figures,
)
from panformer_cli.engine.processes import run_processes
from panformer_cli.engine.results import RECORDS, wait_for_lines, write_records
from panformer_cli.engine.runs import check_results_folder
from panformer_cli.engine.runtime import Process
from panformer_cli.metrics.boundary import with_boundaries
from panformer_cli.metrics.records import compare
from panformer_cli.metrics.tally import Tally
from panformer_cli.reporting import Reporter, SilentReporter
from panformer_cli.result_log import ResultLog


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


def evaluate_predictions(request: PredictionsRequest, reporter: Reporter) -> dict[str, Any]:
    """Count and write `OUT/metrics.json`, `OUT/analysis.json` and `OUT/records.jsonl`; gives the first.

    Raises:
        PanformerError: JSONs or PNGs cannot be used, or do not go together; the sentence names the image.
    """
    check_results_folder(request.out)
    request.open()  # what is wrong with the JSONs is said before any process starts
    with TemporaryDirectory(prefix="panformer-") as folder:
        run_processes(request.processes, _count_process, request, Path(folder), reporter)
    figures = read_metrics(request.out)
    warn_of_disagreements(figures, reporter)
    return figures


def _count_process(process: Process, request: PredictionsRequest, folder: Path, reporter: Reporter) -> None:
    pairs = request.open()
    log = ResultLog(folder, process.rank, process.world_size)  # not in OUT, where a failure keeps what was there before
    with closing(log):
        tally = joined(_count(pairs, log, process, request, reporter), process)
    wait_for_lines(log, process)
    if process.is_first:
        write_records(request.out / RECORDS, log)
        names = {
            "annotation": request.annotations,
            "truth_pngs": pairs.truth_pngs,
            "photos": photo_folder(request.annotations),
            "predictions": request.predictions,
            "predicted_pngs": pairs.predicted_pngs,
        }
        write_figures(request.out, names, tally)


def _count(
    pairs: PanopticPairs, log: ResultLog, process: Process, request: PredictionsRequest, reporter: Reporter
) -> Tally:
    """Count this process's share of the images."""
    tally = Tally(pairs.categories, request.metrics, request.resamples)
    own = range(process.rank, len(pairs), process.world_size)
    told = reporter if process.is_first else SilentReporter()
    with told.progress("Counting", len(own)) as progress:
        for index in own:
            prediction, truth = pairs[index]
            info = pairs.image_info(index)
            record = compare(prediction, truth, info.id, info.file_name)
            if "boundary" in tally.metrics:
                record = with_boundaries(record, prediction, truth)
            tally.add(record)
            log.append(index, {"record": record.to_json()})
            progress.advance()
    return tally
