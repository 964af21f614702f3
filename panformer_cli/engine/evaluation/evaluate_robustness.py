"""Evaluate a checkpoint on corrupted images, with any number of processes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from panformer_cli.engine.checkpoints.published import PUBLISHED
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.evaluation.evaluate import EvaluateRequest, Samples, evaluate_model, file_stamps, open_both
from panformer_cli.engine.evaluation.result_store import ResultStore, Scores
from panformer_cli.engine.evaluation.robustness import RobustnessOptions, measure_robustness
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.runs import check_results_folder
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import write_json


@dataclass(frozen=True)
class RobustnessRequest:
    """An evaluation on corrupted images; only PQ is computed."""

    evaluation: EvaluateRequest
    options: RobustnessOptions


def evaluate_robustness(request: RobustnessRequest, process: Process, reporter: Reporter) -> dict[str, Any]:
    """Evaluate and write `OUT/robustness.json`; return its content, `Robustness.to_json`, on all ranks.

    Finished corruptions are saved in `OUT/robustness/` and not evaluated again.

    Raises:
        PanformerError: The checkpoint or the data cannot be used, or the folder has results of other settings.
    """
    evaluation = request.evaluation
    process.on_first(lambda: check_results_folder(evaluation.out))
    checkpoint, dataset = open_both(evaluation, process, reporter)
    predictor = Predictor.of(checkpoint, process, evaluation.precision)

    def measure(samples: Samples) -> Scores:
        evaluator = evaluate_model(predictor, samples, process, reporter, batch_size=evaluation.batch_size)
        return asdict(evaluator.panoptic.result().all)

    settings = {
        **file_stamps(evaluation, dataset),
        "precision": evaluation.precision,
        **evaluation.changes.differences(),
    }
    store = ResultStore(evaluation.out / "robustness", settings, process.is_first)
    published = PUBLISHED.get(checkpoint.recipe.name) if checkpoint.official else None
    paper = published.robustness if published else None
    content = measure_robustness(dataset, measure, request.options, store, reporter, paper).to_json()
    process.on_first(lambda: write_json(evaluation.out / "robustness.json", content))
    return content
