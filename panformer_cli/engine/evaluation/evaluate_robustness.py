"""PQ of a checkpoint under corruptions, by any number of processes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from panformer_cli.engine.checkpoints.published import PUBLISHED
from panformer_cli.engine.distributed.processes import run_processes
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.evaluation.evaluate import EvaluateRequest, Samples, evaluate_model, file_stamps, open_split
from panformer_cli.engine.evaluation.result_store import Figures, ResultStore
from panformer_cli.engine.evaluation.robustness import (
    RobustnessOptions,
    measure_robustness,
    parse_corruptions,
    parse_severities,
)
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.runs import check_results_folder
from panformer_cli.files import write_json
from panformer_cli.reporting import Reporter, SilentReporter


@dataclass(frozen=True)
class RobustnessRequest:
    """An evaluation, of which only PQ is measured, on corrupted images."""

    evaluation: EvaluateRequest
    options: RobustnessOptions

    @classmethod
    def parse(
        cls, evaluation: EvaluateRequest, corruptions: str, severity: str, images: int | None, seed: int
    ) -> RobustnessRequest:
        """From what a person writes; errors as `parse_corruptions`, `parse_severities` and `RobustnessOptions`."""
        options = RobustnessOptions(parse_corruptions(corruptions), parse_severities(severity), images, seed)
        return cls(evaluation, options)


def evaluate_robustness(request: RobustnessRequest, reporter: Reporter) -> dict[str, Any]:
    """Measure and write `OUT/robustness.json`, `Robustness.to_json`, which is given too.

    Finished corruptions are kept in `OUT/robustness/` and not measured again.

    Raises:
        PanformerError: checkpoint or data cannot be used, or the folder has figures of other settings.
    """
    checkpoint = read_checkpoint(request.evaluation.checkpoint)
    out = request.evaluation.out
    check_results_folder(out)
    open_split(checkpoint, request.evaluation)
    run_processes(request.evaluation.processes, _measure_process, request, reporter)
    content: dict[str, Any] = json.loads((out / "robustness.json").read_text(encoding="utf-8"))
    return content


def _measure_process(process: Process, request: RobustnessRequest, reporter: Reporter) -> None:
    wanted = request.evaluation
    checkpoint = read_checkpoint(wanted.checkpoint)
    dataset = open_split(checkpoint, wanted)
    predictor = Predictor.of(checkpoint, process, wanted.precision, wanted.processes.sampling)
    told = reporter if process.is_first else SilentReporter()

    def measure(samples: Samples) -> Figures:
        evaluator = evaluate_model(predictor, samples, process, told, batch_size=wanted.batch_size)
        return asdict(evaluator.panoptic.result().all)

    settings = {**file_stamps(wanted, dataset), "precision": wanted.precision}
    store = ResultStore(wanted.out / "robustness", settings, process.is_first)
    published = PUBLISHED.get(checkpoint.recipe.name) if checkpoint.official else None
    paper = published.robustness if published else None
    measured = measure_robustness(dataset, measure, request.options, store, told, paper)
    if process.is_first:
        write_json(wanted.out / "robustness.json", measured.to_json())
