"""How good a model is: PQ, and box and mask AP, of a split of a data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from panformer_cli.data.coco_panoptic import CocoPanoptic
from panformer_cli.engine.checkpoint import Checkpoint, read_checkpoint
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.precision import PrecisionChoice
from panformer_cli.engine.results import PanopticResults
from panformer_cli.engine.runs import check_results_folder
from panformer_cli.engine.runtime import Process, ProcessOptions, run_processes
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.files import write_json
from panformer_cli.metrics.detection import DetectionQuality
from panformer_cli.metrics.quality import PanopticQuality, PanopticResult
from panformer_cli.metrics.records import compare
from panformer_cli.reporting import Reporter, SilentReporter

MetricName = Literal["panoptic", "bbox", "segm"]


@dataclass(frozen=True)
class EvaluateRequest:
    """What to measure.

    out: folder of predictions and metrics.json.
    data_root, split: None for those of the checkpoint's recipe.
    metrics: `panoptic` is always measured; `bbox` and `segm` add the AP of the things.
    batch_size: images in one forward pass, 1 or more; only images of one size share it, so the figures stay.
    precision: of the network; anything but fp32 changes the figures a little.
    """

    checkpoint: Path
    out: Path
    data_root: Path | None = None
    split: str | None = None
    metrics: Sequence[MetricName] = ("panoptic",)
    processes: ProcessOptions = field(default_factory=ProcessOptions)
    batch_size: int = 1
    precision: PrecisionChoice = "fp32"


@dataclass(frozen=True)
class Evaluation:
    """The figures of a split, in percent.

    detection: `{"bbox": {"AP": ...}, "segm": {...}}`, as far as asked for.
    """

    images: int
    panoptic: PanopticResult
    detection: dict[str, dict[str, float | None]]

    def to_json(self) -> dict[str, Any]:
        """`{"images": n, "panoptic": {"all": {"pq", ...}, ..., "per_class": {"<id>": {...}}}, "bbox": {...}}`."""
        panoptic: dict[str, Any] = {name: asdict(getattr(self.panoptic, name)) for name in ("all", "things", "stuff")}
        panoptic["per_class"] = {str(row.category_id): asdict(row) for row in self.panoptic.categories if row.counts}
        return {"images": self.images, "panoptic": panoptic, **self.detection}


def evaluate(request: EvaluateRequest, reporter: Reporter) -> dict[str, Any]:
    """Evaluate a checkpoint and write `OUT/panoptic.json`, `OUT/panoptic/*.png` and `OUT/metrics.json`.

    Returns the content of metrics.json, `Evaluation.to_json` with the names of checkpoint and annotation.

    Raises:
        PanformerError: checkpoint or data cannot be used, or do not go together.
    """
    checkpoint = read_checkpoint(request.checkpoint)
    check_results_folder(request.out)
    open_split(checkpoint, request)  # what is wrong with it is said before any process starts
    run_processes(request.processes, _evaluate_process, request, reporter)
    return read_metrics(request.out)


def read_metrics(out: Path) -> dict[str, Any]:
    """The metrics.json of an evaluation."""
    content: dict[str, Any] = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return content


def open_split(checkpoint: Checkpoint, request: EvaluateRequest) -> CocoPanoptic:
    """The data to evaluate on, which must have the checkpoint's categories."""
    data = checkpoint.recipe.data
    root = request.data_root or (Path(data.root) if data.root else None)
    if root is None:
        raise PanformerError("no data set was given and the checkpoint names none; give its folder with --data ROOT")
    dataset = CocoPanoptic(root, request.split or data.val_split)
    ours = {(row.id, row.is_thing) for row in checkpoint.categories.categories}
    theirs = {(row.id, row.is_thing) for row in dataset.categories.categories}
    if ours != theirs:
        raise DataError(
            f"the checkpoint {checkpoint.path} knows {len(ours)} categories and {root} has {len(theirs)}, "
            "and their ids or isthing differ; evaluate on the data set the model was trained for"
        )
    return dataset


def _evaluate_process(process: Process, request: EvaluateRequest, reporter: Reporter) -> None:
    checkpoint = read_checkpoint(request.checkpoint)
    dataset = open_split(checkpoint, request)
    predictor = Predictor.of(checkpoint, process, request.precision)
    results = PanopticResults(request.out, checkpoint.categories, process)
    evaluation = evaluate_model(predictor, dataset, process, reporter, request.metrics, results, request.batch_size)
    results.finish()
    if process.is_first:
        names = {"checkpoint": str(request.checkpoint), "annotation": str(dataset.layout.annotation)}
        write_json(request.out / "metrics.json", {**names, **evaluation.to_json()})


def evaluate_model(
    predictor: Predictor,
    dataset: CocoPanoptic,
    process: Process,
    reporter: Reporter,
    metrics: Sequence[MetricName] = ("panoptic",),
    results: PanopticResults | None = None,
    batch_size: int = 1,
) -> Evaluation:
    """Predict this process's share of the images, count, and add up the counts of all processes."""
    panoptic = PanopticQuality(predictor.categories)
    detection = DetectionQuality(predictor.categories)
    detection_metrics = [metric for metric in metrics if metric != "panoptic"]
    own = range(process.rank, len(dataset), process.world_size)
    told = reporter if process.is_first else SilentReporter()
    with told.progress("Evaluating", len(own)) as progress:
        samples = ((index, dataset[index]) for index in own)
        pairs = (((index, sample), sample.image) for index, sample in samples)
        for (index, sample), prediction in predictor.stream(pairs, batch_size):
            panoptic.update(compare(prediction.panoptic, sample.annotation, sample.image_id, sample.file_name))
            if detection_metrics:
                instances = prediction.instances(sample.image_id, predictor.categories.num_things)
                detection.update(instances, sample.annotation)
            if results is not None:
                names = (sample.file_name, dataset.image_info(index).png_name)
                results.add(index, sample.image_id, names, prediction.panoptic)
            progress.advance()
    total = process.sum(torch.from_numpy(panoptic.state()))
    figures = PanopticQuality.from_state(predictor.categories, total.numpy()).result()
    return Evaluation(len(dataset), figures, _detection_figures(detection, detection_metrics, process))


def _detection_figures(
    detection: DetectionQuality, metrics: Sequence[Any], process: Process
) -> dict[str, dict[str, float | None]]:
    if not metrics:
        return {}
    first, *others = process.gather(detection.state())
    if not process.is_first:
        return {}
    joined = DetectionQuality.from_state(detection.categories, first)
    for part in others:
        joined.merge(DetectionQuality.from_state(detection.categories, part))
    return joined.result(metrics)
