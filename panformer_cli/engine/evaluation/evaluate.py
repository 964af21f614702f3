"""Evaluate a checkpoint: all metrics of a split from one pass over its images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.panoptic_png import expect_reads
from panformer_cli.data.coverage import Coverage
from panformer_cli.data.layout import default_split
from panformer_cli.data.structures import Sample
from panformer_cli.engine.checkpoints.checkpoint import Checkpoint, read_checkpoint
from panformer_cli.engine.combined.choose import predictor_of
from panformer_cli.engine.combined.options import DEFAULT, InferenceOptions
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.distributed.signals import SharedStop
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.inference_changes import InferenceChanges
from panformer_cli.engine.precision import PrecisionChoice
from panformer_cli.engine.results import ANALYSIS, METRICS, RECORDS, PanopticResults, check_are_results
from panformer_cli.engine.runs import check_results_folder
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.metrics.average_precision import ImageDetections
from panformer_cli.metrics.boundary import with_boundaries
from panformer_cli.metrics.detection import match_instances
from panformer_cli.metrics.evaluator import Evaluator, MetricName
from panformer_cli.metrics.image_overlap import ImageOverlap, compare
from panformer_cli.models.base import Prediction
from panformer_cli.reporting import Reporter
from panformer_cli.settings import DataSettings
from panformer_cli.storage.files import file_stamp, write_json
from panformer_cli.storage.result_log import differing
from panformer_cli.wording import counted


@dataclass(frozen=True, kw_only=True)
class MetricsRequest:
    """Which metrics to compute, for a model or for predictions on disk.

    Attributes:
        metrics: As in `metrics.evaluator.Evaluator`.
        resamples: As in `metrics.evaluator.Evaluator`.
    """

    metrics: Sequence[MetricName] = ("panoptic",)
    resamples: int = 1000


@dataclass(frozen=True)
class EvaluateRequest(MetricsRequest):
    """What to evaluate.

    Attributes:
        checkpoint: The checkpoint file.
        out: Folder of predictions and results.
        data_root: Folder of the data set; None for the one in the checkpoint's recipe.
        split: Split to evaluate; None for the validation split of the checkpoint's recipe.
        batch_size: Images per forward pass, 1 or more; changes results by rounding at most: all have one size.
        precision: Precision of the network. Anything but fp32 changes the results slightly.
        resume: Resume the interrupted evaluation in `out`; if it is complete, return its results.
        inference: Tiles, views and mask layers.
        changes: Settings that differ from those of the checkpoint.
    """

    checkpoint: Path
    out: Path
    data_root: Path | None = None
    split: str | None = None
    batch_size: int = 1
    precision: PrecisionChoice = "fp32"
    resume: bool = False
    inference: InferenceOptions = DEFAULT
    changes: InferenceChanges = InferenceChanges()


HF_POST_PROCESSING = "hf_post_processing"
"""Folder, in that of the results, of the results with the merging of transformers."""

MUCH_VOID = 0.2
"""Share of void pixels in the ground truth above which an evaluation reports them."""

_VOID_SHARES = (("void", "pixels"), ("predicted_on_void", "predicted"))


class Samples(Protocol):
    """A split of a data set, such as `CocoPanoptic`."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int, /) -> Sample:
        """Return an image with its annotation; raise IndexError past the last one."""


def evaluate(request: EvaluateRequest, process: Process, reporter: Reporter) -> dict[str, Any]:
    """Evaluate a checkpoint; all ranks return the same result.

    Writes the predictions, `OUT/panoptic.json` and `OUT/panoptic/*.png`, and the results, `OUT/metrics.json`,
    `OUT/analysis.json` and `OUT/records.jsonl`.

    Returns:
        The content of metrics.json: `Evaluator.results` with the paths of checkpoint and annotation.

    Raises:
        PanformerError: The checkpoint or the data cannot be used, or they have different categories.
    """
    checkpoint, dataset = open_both(request, process, reporter)
    metrics = process.on_first(lambda: _begin(request, dataset, reporter))
    if metrics is None:
        metrics = _evaluate(request, checkpoint, dataset, process, reporter)
    report_ground_truth(metrics, reporter)
    if checkpoint.saved is not None and finds_no_things(metrics):
        reporter.warn(
            f"{checkpoint.path} predicted no thing in {counted(metrics['images'], 'image')}, though the data has "
            "things; it may have been trained for semantic segmentation"
        )
    return metrics


def apart(request: EvaluateRequest) -> tuple[EvaluateRequest, EvaluateRequest | None]:
    """Return an evaluation with the merging of the original project, and one with that of transformers if requested.

    The results of the second one are in `OUT/hf_post_processing`. Run it first: it fails at once if the model does not
    have that merging.
    """
    if not request.changes.hf_post_processing:
        return request, None
    original = replace(request, changes=replace(request.changes, hf_post_processing=False))
    return original, replace(request, out=request.out / HF_POST_PROCESSING)


def _begin(request: EvaluateRequest, dataset: CocoPanoptic, reporter: Reporter) -> dict[str, Any] | None:
    """Return the metrics if `resume` finds a complete evaluation; otherwise prepare the folder and return None."""
    check_results_folder(request.out)
    if request.resume and _is_complete(request, dataset):
        reporter.message(f"The evaluation in {request.out} is already complete; showing its results")
        return read_metrics(request.out)
    check_are_results(request.out, METRICS, ANALYSIS, RECORDS)
    PanopticResults.begin(request.out, _settings(request, dataset), request.resume)
    return None


def finds_no_things(metrics: dict[str, Any]) -> bool:
    """Return whether an evaluation has no predicted thing, but things in its ground truth."""
    rows = [row for row in metrics["panoptic"]["per_class"].values() if row["is_thing"]]
    return any(row["fn"] for row in rows) and not any(row["tp"] or row["fp"] for row in rows)


def read_metrics(out: Path) -> dict[str, Any]:
    """Return the content of an evaluation's metrics.json."""
    content: dict[str, Any] = json.loads((out / METRICS).read_text(encoding="utf-8"))
    return content


class ModelOnData(Protocol):
    """A request to run a checkpoint on a split; see `EvaluateRequest`."""

    @property
    def checkpoint(self) -> Path: ...

    @property
    def data_root(self) -> Path | None: ...

    @property
    def split(self) -> str | None: ...

    @property
    def changes(self) -> InferenceChanges: ...


def open_both(request: ModelOnData, process: Process, reporter: Reporter) -> tuple[Checkpoint, CocoPanoptic]:
    """Return the checkpoint, with the changes and for the categories of the split, and the split.

    Raises:
        PanformerError: One of them cannot be used, or the categories of a checkpoint of panformer are others.
    """
    data = read_checkpoint(request.checkpoint).recipe.data
    dataset = process.first_then_others(lambda: open_split(data, request.data_root, request.split))
    checkpoint = request.changes.read(request.checkpoint, reporter, dataset.categories)
    ours, theirs = checkpoint.categories, dataset.categories
    if not ours.has_labels_of(theirs):
        raise DataError(
            f"the checkpoint {checkpoint.path} has {len(ours)} categories and {request.data_root or data.root} has "
            f"{len(theirs)}, and their ids or isthing differ; evaluate on the data set that the model was trained on"
        )
    return checkpoint, dataset


def open_split(data: DataSettings, data_root: Path | None, split: str | None) -> CocoPanoptic:
    """Return the split to evaluate on.

    Args:
        data: The section `data` of the checkpoint's recipe.
        data_root: Folder of the data set; None for the one in the recipe.
        split: Name of the split; None for the validation split of the recipe or, in another data set, `default_split`.
    """
    root = data_root or (Path(data.root) if data.root else None)
    if root is None:
        raise PanformerError(
            "no data set was given and the checkpoint does not name one; give its folder with --data ROOT"
        )
    if split is None:
        split = data.val_split if data_root is None else default_split(root, data.val_split)
    return CocoPanoptic(root, split)


def _is_complete(request: EvaluateRequest, dataset: CocoPanoptic) -> bool:
    """Return whether the folder has a complete evaluation.

    Raises:
        PanformerError: The evaluation was run with other settings.
    """
    if PanopticResults.is_begun(request.out) or not (request.out / METRICS).is_file():
        return False
    try:
        known = read_metrics(request.out)["settings"]
    except (ValueError, KeyError, TypeError):
        return False  # an evaluation of predictions on disk, or a file of another program
    if other := differing(known, _all_settings(request, dataset)):
        raise PanformerError(
            f"{request.out} has an evaluation with different settings ({other}); --resume needs the same settings; "
            "omit it to start over"
        )
    return True


def _all_settings(request: EvaluateRequest, dataset: CocoPanoptic) -> dict[str, Any]:
    """Return the settings that the metrics depend on."""
    return {**_settings(request, dataset), "bootstrap": request.resamples}


def _settings(request: EvaluateRequest, dataset: CocoPanoptic) -> dict[str, Any]:
    """Return the settings that the result log of an evaluation depends on."""
    return {
        **file_stamps(request, dataset),
        "metrics": sorted(request.metrics),
        "precision": request.precision,
        **request.inference.to_settings(),
        **request.changes.differences(),
    }


def file_stamps(request: EvaluateRequest, dataset: CocoPanoptic) -> dict[str, Any]:
    """Return path, size and modification time of checkpoint and annotation, to detect that a file was replaced."""
    files = {"checkpoint": request.checkpoint, "annotation": dataset.layout.annotation}
    return {name: file_stamp(path) for name, path in files.items()}


def _evaluate(
    request: EvaluateRequest, checkpoint: Checkpoint, dataset: CocoPanoptic, process: Process, reporter: Reporter
) -> dict[str, Any]:
    predictor = predictor_of(checkpoint, process, request.precision, request.inference)
    for note in predictor.notes():
        reporter.message(note)
    results = PanopticResults(request.out, checkpoint.categories, process)
    evaluator = Evaluator(checkpoint.categories, request.metrics, request.resamples)
    with closing(results.log):
        evaluator = evaluate_model(predictor, dataset, process, reporter, evaluator, results, request.batch_size)
    names = {
        "checkpoint": request.checkpoint,
        "annotation": dataset.layout.annotation,
        "truth_pngs": dataset.layout.pngs,
        "photos": dataset.layout.images,
        "predictions": results.json,
        "predicted_pngs": results.pngs,
    }
    metrics = process.on_first(lambda: write_metrics(request.out, names, evaluator, _all_settings(request, dataset)))
    results.finish()  # last, since after it there is nothing to resume
    return metrics


def write_metrics(
    out: Path, names: dict[str, Path], evaluator: Evaluator, settings: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write `OUT/metrics.json` and `OUT/analysis.json`, and return the content of metrics.json.

    Args:
        out: Folder of the results.
        names: Paths for metrics.json by key. They are written relative to `out` if they are in it, else absolute.
        evaluator: The evaluator of all images.
        settings: Settings that the metrics depend on; `--resume` compares them.
    """
    write_json(out / ANALYSIS, evaluator.analysis.to_json())
    paths = {name: path.absolute() for name, path in names.items()}
    home = out.absolute()
    inside = {name: path.relative_to(home) for name, path in paths.items() if path.is_relative_to(home)}
    named = {name: str(path) for name, path in (paths | inside).items()}
    content = {**named, **evaluator.results()}
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
    stop: SharedStop | None = None,
    skipped: list[str] | None = None,
) -> Evaluator:
    """Predict and evaluate the images, each process its share, and return the merged evaluator of all processes.

    Args:
        predictor: The model.
        dataset: The split.
        process: This process.
        reporter: Shows the progress.
        evaluator: An empty evaluator; None for PQ only.
        results: Where predictions are written. Images that it already has are not predicted again.
        batch_size: Images per forward pass.
        stop: Asked after every image; if it returns True, the images that are left are not predicted. With it, the
            failure of one process stops the others, too, and is raised by all of them.
        skipped: Receives the errors of images that this process cannot use and leaves out. None raises the first one.

    Raises:
        PanformerError: An image cannot be used; with `stop`, anything else that fails.
    """
    evaluator = evaluator or Evaluator(predictor.categories)
    try:
        _evaluate_share(predictor, dataset, process, reporter, evaluator, results, batch_size, stop, skipped)
        problem = ""
    except Exception as error:
        if stop is None:  # the launcher ends the other processes
            raise
        stop.announce()
        problem = str(error) if isinstance(error, PanformerError) else f"{type(error).__name__}: {error}"
    if stop is not None and (problem := next(filter(None, process.gather(problem)), "")):
        raise PanformerError(problem)
    return merge_evaluators(evaluator, process)


def _evaluate_share(
    predictor: Predictor,
    dataset: Samples,
    process: Process,
    reporter: Reporter,
    evaluator: Evaluator,
    results: PanopticResults | None,
    batch_size: int,
    stop: SharedStop | None,
    skipped: list[str] | None,
) -> None:
    """Add the share of this process to the evaluator; arguments as `evaluate_model`."""
    done = bytearray(len(dataset))
    if results is not None:
        _add_finished(evaluator, results, done)
    own = range(process.rank, len(dataset), process.world_size)
    expect_reads(len(own) - sum(done))
    with reporter.progress("Evaluating", len(own) - sum(done)) as progress:
        samples = _samples(dataset, (index for index in own if not done[index]), skipped)
        pairs = (((index, sample), sample.image) for index, sample in samples)

        def count(key: tuple[int, Sample], prediction: Prediction) -> tuple[ImageOverlap, ImageDetections | None]:
            index, sample = key
            overlap, detections = _compare(evaluator, prediction, sample)
            if results is not None:
                more = {"record": overlap.to_json(), "detections": detections and detections.to_json()}
                names = sample.file_name, sample.png_name
                results.add(index, sample.image_id, names, prediction.panoptic, more)
            return overlap, detections

        for overlap, detections in predictor.map(pairs, count, batch_size):
            evaluator.add(overlap, detections)
            progress.advance()
            if stop is not None and stop():
                break


def _samples(dataset: Samples, indices: Iterable[int], skipped: list[str] | None) -> Iterator[tuple[int, Sample]]:
    """Yield index and sample; if `skipped` is a list, it receives the errors of images that cannot be used."""
    for index in indices:
        try:
            sample = dataset[index]
        except DataError as error:
            if skipped is None:
                raise
            skipped.append(str(error))
        else:
            yield index, sample


def _add_finished(evaluator: Evaluator, results: PanopticResults, done: bytearray) -> None:
    """Add the images in the result log to the evaluator, and set their entries in `done` to 1."""
    for line in results.done():
        detections = line["detections"] and ImageDetections.from_json(line["detections"])
        evaluator.add(ImageOverlap.from_json(line["record"]), detections)
        done[line["index"]] = 1


def _compare(
    evaluator: Evaluator, prediction: Prediction, sample: Sample
) -> tuple[ImageOverlap, ImageDetections | None]:
    truth = sample.annotation
    overlap = compare(prediction.panoptic, truth, sample.image_id, sample.file_name)
    if "boundary" in evaluator.metrics:
        overlap = with_boundaries(overlap, prediction.panoptic, truth)
    detections = None
    if evaluator.detection_metrics:
        instances = prediction.instances(sample.image_id)
        detections = match_instances(instances, truth, evaluator.categories, evaluator.detection_metrics)
    return overlap, detections


def merge_evaluators(evaluator: Evaluator, process: Process) -> Evaluator:
    """Return the merged evaluator of all processes, on every process."""
    total: Evaluator
    total, *others = process.gather(evaluator)
    for other in others:
        total.merge(other)
    return total


def report_ground_truth(metrics: dict[str, Any], reporter: Reporter) -> None:
    """Report what is unusual about the ground truth: contradictions, no segments, and much void."""
    _warn_of_disagreements(metrics, reporter)
    counts = metrics.get("coverage")  # not in results of earlier versions
    if counts is None:
        return
    coverage = Coverage(metrics["images"], counts["segments"], counts["pixels"], counts["void"])
    if problem := coverage.problem(metrics["annotation"]):
        reporter.warn(problem)
    if counts["void"] > MUCH_VOID * counts["pixels"]:
        share, lost = (100 * counts[part] / (counts[whole] or 1) for part, whole in _VOID_SHARES)
        reporter.message(
            f"{share:.1f} % of the ground truth is void, where predictions do not count; {lost:.1f} % of the predicted "
            "pixels are there"
        )


def _warn_of_disagreements(metrics: dict[str, Any], reporter: Reporter) -> None:
    """Warn about images whose annotation contradicts its PNG: COCO's rule uses the listed areas, right or wrong."""
    count, first = metrics["disagreements"]["images"], metrics["disagreements"]["first"]
    if count:
        named = "; ".join(f"{name}: {phrase}" for name, phrase in first[:3])
        reporter.warn(
            f"{metrics['annotation']} contradicts its PNGs in {counted(count, 'image')}; PQ uses the listed "
            f"areas, as COCO's rule says, so it may be wrong or even above 100 ({named}); find all of them with "
            "`panformer prepare-data verify` and fix them with its --fix"
        )
