"""How good a model is: every figure of a split of a data set, from one pass over its images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.panoptic_png import expect_reads
from panformer_cli.data.structures import Sample
from panformer_cli.engine.checkpoints.checkpoint import Checkpoint, read_checkpoint
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.precision import PrecisionChoice
from panformer_cli.engine.results import ANALYSIS, METRICS, PanopticResults
from panformer_cli.engine.runs import check_results_folder
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.metrics.average_precision import ImageDetections
from panformer_cli.metrics.boundary import with_boundaries
from panformer_cli.metrics.detection import match_instances
from panformer_cli.metrics.evaluator import Evaluator, MetricName
from panformer_cli.metrics.image_overlap import ImageOverlap, compare
from panformer_cli.models.base import Prediction
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import resolve_links, write_json
from panformer_cli.storage.result_log import differing


@dataclass(frozen=True, kw_only=True)
class FiguresRequest:
    """Which figures to make of an evaluation, of a model or of predictions on disk.

    metrics, resamples: as `metrics.evaluator.Evaluator`.
    """

    metrics: Sequence[MetricName] = ("panoptic",)
    resamples: int = 1000


@dataclass(frozen=True)
class EvaluateRequest(FiguresRequest):
    """What to measure.

    out: folder of predictions and figures.
    data_root, split: None for those of the checkpoint's recipe.
    batch_size: images in one forward pass, 1 or more; only images of one size share it, so the figures stay.
    precision: of the network; anything but fp32 changes the figures a little.
    resume: go on from what an interrupted evaluation left in `out`; of one that had ended, give the figures.
    """

    checkpoint: Path
    out: Path
    data_root: Path | None = None
    split: str | None = None
    batch_size: int = 1
    precision: PrecisionChoice = "fp32"
    resume: bool = False


class Samples(Protocol):
    """A split of a data set, as far as counting needs it; `CocoPanoptic` is one."""

    def __len__(self) -> int:
        """Images."""

    def __getitem__(self, index: int, /) -> Sample:
        """An image with its annotation; IndexError beyond the last."""


def evaluate(request: EvaluateRequest, process: Process, reporter: Reporter) -> dict[str, Any]:
    """Evaluate a checkpoint; the result is equal on all ranks.

    Writes `OUT/panoptic.json` and `OUT/panoptic/*.png`, the predictions; `OUT/metrics.json`, `OUT/analysis.json` and
    `OUT/records.jsonl`, of which all figures are made.

    Returns the content of metrics.json, `Evaluator.figures` with the names of checkpoint and annotation.

    Raises:
        PanformerError: checkpoint or data cannot be used, or do not go together.
    """
    checkpoint = read_checkpoint(request.checkpoint)
    dataset = process.first_then_others(lambda: open_split(checkpoint, request.data_root, request.split))
    figures = process.on_first(lambda: _begin(request, dataset, reporter))
    if figures is None:
        figures = _measure(request, checkpoint, dataset, process, reporter)
    warn_of_disagreements(figures, reporter)
    return figures


def _begin(request: EvaluateRequest, dataset: CocoPanoptic, reporter: Reporter) -> dict[str, Any] | None:
    """Return the metrics of an evaluation that ended already, for `resume`; otherwise prepare the folder of results."""
    check_results_folder(request.out)
    if request.resume and _has_ended(request, dataset):
        reporter.message(f"The evaluation in {request.out} had ended: these are its figures; --resume changes nothing")
        return read_metrics(request.out)
    PanopticResults.begin(request.out, _settings(request, dataset), request.resume)
    return None


def read_metrics(out: Path) -> dict[str, Any]:
    """The metrics.json of an evaluation."""
    content: dict[str, Any] = json.loads((out / METRICS).read_text(encoding="utf-8"))
    return content


def open_split(checkpoint: Checkpoint, data_root: Path | None, split: str | None) -> CocoPanoptic:
    """Return the data to evaluate on, which must have the checkpoint's categories.

    Args:
        checkpoint: The model to evaluate.
        data_root: Folder of the data set; None for that of the checkpoint's recipe.
        split: Of the data set; None for the validation split of the checkpoint's recipe.
    """
    data = checkpoint.recipe.data
    root = data_root or (Path(data.root) if data.root else None)
    if root is None:
        raise PanformerError("no data set was given and the checkpoint names none; give its folder with --data ROOT")
    dataset = CocoPanoptic(root, split or data.val_split)
    ours, theirs = checkpoint.categories, dataset.categories
    if not ours.has_labels_of(theirs):
        raise DataError(
            f"the checkpoint {checkpoint.path} knows {len(ours)} categories and {root} has {len(theirs)}, "
            "and their ids or isthing differ; evaluate on the data set the model was trained for"
        )
    return dataset


def _has_ended(request: EvaluateRequest, dataset: CocoPanoptic) -> bool:
    """Whether the folder holds an evaluation that nothing is left to do of.

    Raises:
        PanformerError: it was made with other settings.
    """
    if PanopticResults.is_begun(request.out) or not (request.out / METRICS).is_file():
        return False
    try:
        known = read_metrics(request.out)["settings"]
    except (ValueError, KeyError, TypeError):
        return False  # figures of predictions on disk, or of another program
    if other := differing(known, _all_settings(request, dataset)):
        raise PanformerError(
            f"{request.out} holds an evaluation with another {other}; --resume keeps only one with the same; leave it "
            "out to start over"
        )
    return True


def _all_settings(request: EvaluateRequest, dataset: CocoPanoptic) -> dict[str, Any]:
    """What the figures depend on."""
    return {**_settings(request, dataset), "bootstrap": request.resamples}


def _settings(request: EvaluateRequest, dataset: CocoPanoptic) -> dict[str, Any]:
    """What the lines of an evaluation depend on."""
    return {**file_stamps(request, dataset), "metrics": sorted(request.metrics), "precision": request.precision}


def file_stamps(request: EvaluateRequest, dataset: CocoPanoptic) -> dict[str, Any]:
    """Path, bytes and time of checkpoint and annotation: another file at the same place has other figures."""
    files = {"checkpoint": request.checkpoint, "annotation": dataset.layout.annotation}
    return {
        name: [str(resolve_links(path)), path.stat().st_size, path.stat().st_mtime_ns] for name, path in files.items()
    }


def _measure(
    request: EvaluateRequest, checkpoint: Checkpoint, dataset: CocoPanoptic, process: Process, reporter: Reporter
) -> dict[str, Any]:
    predictor = Predictor.of(checkpoint, process, request.precision)
    results = PanopticResults(request.out, checkpoint.categories, process)
    evaluator = Evaluator(checkpoint.categories, request.metrics, request.resamples)
    evaluator = evaluate_model(predictor, dataset, process, reporter, evaluator, results, request.batch_size)
    names = {
        "checkpoint": request.checkpoint,
        "annotation": dataset.layout.annotation,
        "truth_pngs": dataset.layout.pngs,
        "photos": dataset.layout.images,
        "predictions": results.json,
        "predicted_pngs": results.pngs,
    }
    figures = process.on_first(lambda: write_figures(request.out, names, evaluator, _all_settings(request, dataset)))
    results.finish()  # last, as after it there is nothing to resume
    return figures


def write_figures(
    out: Path, names: dict[str, Path], evaluator: Evaluator, settings: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write `OUT/metrics.json`, which begins with the names of what was evaluated, and `OUT/analysis.json`.

    Returns the content of metrics.json.

    What lies in OUT is named from there, everything else by its whole path.

    settings: what the figures depend on, for who asks whether they still hold.
    """
    write_json(out / ANALYSIS, evaluator.analysis.to_json())
    paths = {name: path.absolute() for name, path in names.items()}
    home = out.absolute()
    inside = {name: path.relative_to(home) for name, path in paths.items() if path.is_relative_to(home)}
    named = {name: str(path) for name, path in (paths | inside).items()}
    content = {**named, **evaluator.figures()}
    write_json(out / METRICS, content if settings is None else {**content, "settings": settings})
    return read_metrics(out)


def evaluate_model(
    predictor: Predictor,
    dataset: Samples,
    process: Process,
    reporter: Reporter,
    evaluator: Evaluator | None = None,
    results: PanopticResults | None = None,
    batch_size: int = 1,
) -> Evaluator:
    """Predict this process's share of the images and count; the evaluator of all processes together.

    evaluator: counts nothing yet; None for PQ alone.
    results: where predictions go; its images from before are counted and not predicted again.
    """
    evaluator = evaluator or Evaluator(predictor.categories)
    done = bytearray(len(dataset))
    if results is not None:
        _count_done(evaluator, results, done)
    own = range(process.rank, len(dataset), process.world_size)
    expect_reads(len(own) - sum(done))
    with reporter.progress("Evaluating", len(own) - sum(done)) as progress:
        samples = ((index, dataset[index]) for index in own if not done[index])
        pairs = (((index, sample), sample.image) for index, sample in samples)

        def count(key: tuple[int, Sample], prediction: Prediction) -> tuple[ImageOverlap, ImageDetections | None]:
            index, sample = key
            record, detections = _compared(evaluator, prediction, sample)
            if results is not None:
                more = {"record": record.to_json(), "detections": detections and detections.to_json()}
                names = sample.file_name, sample.png_name
                results.add(index, sample.image_id, names, prediction.panoptic, more)
            return record, detections

        for record, detections in predictor.map(pairs, count, batch_size):
            evaluator.add(record, detections)
            progress.advance()
    return joined(evaluator, process)


def _count_done(evaluator: Evaluator, results: PanopticResults, done: bytearray) -> None:
    """Count the images whose lines are there, and set `done` to 1 at their places."""
    for line in results.done():
        detections = line["detections"] and ImageDetections.from_json(line["detections"])
        evaluator.add(ImageOverlap.from_json(line["record"]), detections)
        done[line["index"]] = 1


def _compared(
    evaluator: Evaluator, prediction: Prediction, sample: Sample
) -> tuple[ImageOverlap, ImageDetections | None]:
    truth = sample.annotation
    record = compare(prediction.panoptic, truth, sample.image_id, sample.file_name)
    if "boundary" in evaluator.metrics:
        record = with_boundaries(record, prediction.panoptic, truth)
    detections = None
    if evaluator.detection_metrics:
        instances = prediction.instances(sample.image_id)
        detections = match_instances(instances, truth, evaluator.categories, evaluator.detection_metrics)
    return record, detections


def joined(evaluator: Evaluator, process: Process) -> Evaluator:
    """What all processes counted, on every process; counts alone travel."""
    total: Evaluator
    total, *others = process.gather(evaluator)
    for other in others:
        total.merge(other)
    return total


def warn_of_disagreements(figures: dict[str, Any], reporter: Reporter) -> None:
    """Say which images' ground truth contradicts itself: COCO's rule takes the listed areas, right or wrong."""
    count, first = figures["disagreements"]["images"], figures["disagreements"]["first"]
    if count:
        named = "; ".join(f"{name}: {phrase}" for name, phrase in first[:3])
        reporter.warn(
            f"{figures['annotation']} contradicts its PNGs in {count} image{'s' * (count > 1)}; PQ takes the listed "
            f"areas, as COCO's rule says, so it may be wrong, even above 100 ({named}); find them all with "
            "`panformer prepare-data verify`, fix them with its --fix"
        )
