"""Evaluate predictions on disk from two panoptic JSONs with their PNGs, without a model or images."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panformer_cli.data.coco.panoptic_annotation import PanopticAnnotation
from panformer_cli.data.coco.panoptic_pairs import PanopticPairs
from panformer_cli.data.layout import photo_folder
from panformer_cli.data.result_folders import PANOPTIC
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.evaluation.evaluate import (
    MetricsRequest,
    merge_evaluators,
    report_ground_truth,
    write_metrics,
)
from panformer_cli.engine.results import (
    ANALYSIS,
    METRICS,
    RECORDS,
    check_are_results,
    discard_label_errors,
    wait_for_lines,
    write_overlaps,
)
from panformer_cli.engine.runs import check_results_folder
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.metrics.boundary import with_boundaries
from panformer_cli.metrics.evaluator import Evaluator
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.reporting import Reporter
from panformer_cli.storage.result_log import ResultLog


@dataclass(frozen=True)
class PredictionsRequest(MetricsRequest):
    """What to evaluate.

    Attributes:
        predictions: Panoptic JSON of the predictions.
        annotations: Panoptic JSON of the ground truth.
        out: Folder of the results.
        pred_folder: PNGs of the predictions; None: beside the JSON, as `PanopticPairs`.
        gt_folder: PNGs of the ground truth; None: beside the JSON, as `PanopticPairs`.
        metrics: Without box and mask AP, which need instances with scores.
        needs_scores: Whether to refuse predictions without any score.
    """

    predictions: Path
    annotations: Path
    out: Path
    pred_folder: Path | None = None
    gt_folder: Path | None = None
    needs_scores: bool = False

    def open(self) -> PanopticPairs:
        """Return the pairs to compare; errors as `PanopticPairs`.

        Raises:
            DataError: Scores are needed, and no predicted segment has one.
        """
        pairs = PanopticPairs(self.annotations, self.predictions, self.gt_folder, self.pred_folder)
        if self.needs_scores and not _has_scores(pairs.predictions):
            raise DataError(
                f"{self.predictions} has no segment with a `score`; expected scores in segments_info, because label "
                "errors are contradictions of confident predictions; write them with the predictions, or leave out "
                "--label-errors"
            )
        return pairs


def evaluate_predictions(request: PredictionsRequest, process: Process, reporter: Reporter) -> dict[str, Any]:
    """Evaluate and write `OUT/metrics.json`, `OUT/analysis.json` and `OUT/records.jsonl`.

    Returns:
        The content of metrics.json, on all ranks.

    Raises:
        PanformerError: JSONs or PNGs cannot be used or do not belong together; the message names the image.
    """
    process.on_first(lambda: _check_out(request))
    pairs = request.open()
    for note in pairs.notes:
        reporter.message(note)
    names = {
        "annotation": request.annotations,
        "truth_pngs": pairs.truth_pngs,
        "photos": photo_folder(request.annotations),
        "predictions": request.predictions,
        "predicted_pngs": pairs.predicted_pngs,
    }
    with process.temporary_folder() as folder:  # not in OUT, so that a failure leaves earlier results alone
        with closing(ResultLog(folder, process.rank, process.world_size)) as log:
            evaluator = merge_evaluators(_count(pairs, log, process, request, reporter), process)
        wait_for_lines(log, process)
        process.on_first(lambda: _replace_overlaps(request.out, log))
    metrics = process.on_first(lambda: write_metrics(request.out, names, evaluator))
    report_ground_truth(metrics, reporter)
    return metrics


def _has_scores(predictions: PanopticAnnotation) -> bool:
    """Return whether any segment has a score."""
    images = range(len(predictions.images))
    return any(segment.score is not None for index in images for segment in predictions.segments(index))


def _check_out(request: PredictionsRequest) -> None:
    """Check that the results can be written.

    Raises:
        PanformerError: The folder has other predictions, to which the metrics would not belong, or files of another
            program that would be replaced.
    """
    check_results_folder(request.out)
    check_are_results(request.out, METRICS, ANALYSIS, RECORDS)
    other = request.out / PANOPTIC
    if other.is_file() and not other.samefile(request.predictions):
        raise PanformerError(
            f"--out {request.out} has other predictions ({PANOPTIC}), whose results would be mixed with those of "
            f"{request.predictions}; choose another folder"
        )


def _replace_overlaps(out: Path, log: ResultLog) -> None:
    """Write the overlaps; the metrics of an earlier evaluation are deleted first, so that they are never mixed."""
    discard_label_errors(out)
    for name in (METRICS, ANALYSIS):
        (out / name).unlink(missing_ok=True)
    write_overlaps(out / RECORDS, log)


def _count(
    pairs: PanopticPairs, log: ResultLog, process: Process, request: PredictionsRequest, reporter: Reporter
) -> Evaluator:
    """Evaluate this process's share of the images."""
    evaluator = Evaluator(pairs.categories, request.metrics, request.resamples)
    own = range(process.rank, len(pairs), process.world_size)
    with reporter.progress("Counting", len(own)) as progress:
        for index in own:
            prediction, truth = pairs[index]
            info = pairs.image_info(index)
            overlap = compare(prediction, truth, info.id, info.file_name)
            if "boundary" in evaluator.metrics:
                overlap = with_boundaries(overlap, prediction, truth)
            evaluator.add(overlap)
            log.append(index, {"record": overlap.to_json()})
            progress.advance()
    return evaluator
