"""Segment images, and write overlays, panoptic PNGs, a panoptic JSON or other outputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_writer import panoptic_json
from panformer_cli.data.result_folders import IMAGE_FOLDERS
from panformer_cli.engine.claimed_folder import claimed
from panformer_cli.engine.combined.choose import predictor_of
from panformer_cli.engine.combined.options import DEFAULT, InferenceOptions
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.inference_changes import InferenceChanges
from panformer_cli.engine.inputs.find import InputImages, find_images
from panformer_cli.engine.inputs.input_image import InputImage
from panformer_cli.engine.outputs.file_list import write_list
from panformer_cli.engine.outputs.gallery import write_gallery_page
from panformer_cli.engine.outputs.names import GALLERY, JSON
from panformer_cli.engine.outputs.options import OutputOptions
from panformer_cli.engine.outputs.registry import Saving
from panformer_cli.engine.outputs.writing import OutputWriter
from panformer_cli.engine.precision import PrecisionChoice
from panformer_cli.engine.predict_images import Failure, predict_images
from panformer_cli.engine.results import MANIFEST, PanopticResults, check_are_results, check_images_are_free, rows_of
from panformer_cli.engine.runs import check_results_folder
from panformer_cli.errors import PanformerError
from panformer_cli.pages.replacing import PAGE, check_page, has_page
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import file_stamp, resolve_links, write_json, writing
from panformer_cli.storage.hub import hub_name
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.storage.result_log import differing, stored_settings


@dataclass(frozen=True)
class PredictRequest:
    """What to segment.

    Attributes:
        inputs: The images, or the inputs in which `find_images` finds them.
        checkpoint: The checkpoint file.
        out: Folder of the results.
        batch_size: Images per forward pass, 1 or more; changes results by rounding at most: all have one size.
        precision: Precision of the network. Anything but fp32 changes the results slightly.
        ids_from: JSON with the ids of the images, see `find_images`; used if `inputs` are not images yet.
        output: What is written.
        changes: Settings that differ from those of the checkpoint.
        resume: Resume an interrupted run in `out`: images that have results are not predicted again. If all have
            results, they are returned.
        inference: Tiles, views and mask layers.
    """

    inputs: Sequence[str] | InputImages
    checkpoint: Path
    out: Path
    batch_size: int = 1
    precision: PrecisionChoice = "fp32"
    ids_from: Path | None = None
    output: OutputOptions = OutputOptions()
    changes: InferenceChanges = InferenceChanges()
    resume: bool = False
    inference: InferenceOptions = DEFAULT

    def find(self) -> InputImages:
        """Return the images of the inputs; errors as `find_images`."""
        if isinstance(self.inputs, InputImages):
            return self.inputs
        return find_images(self.inputs, self.out, self.ids_from)


@dataclass(frozen=True)
class PredictResult:
    """The result of `predict`.

    Attributes:
        json: `OUT/panoptic.json`, which exists unless it was left out of the outputs.
        failures: One message for each image that could not be segmented.
        images: Number of images that have results.
        unsaved: The content of the JSON if it was left out.
        gallery: The page of the gallery, if there is one.
    """

    json: Path
    failures: list[str]
    images: int
    unsaved: dict[str, Any] | None = None
    gallery: Path | None = None

    @cached_property
    def content(self) -> dict[str, Any]:
        """The content of the panoptic JSON, with all segments."""
        content: dict[str, Any] = self.unsaved or json.loads(self.json.read_text(encoding="utf-8"))
        return content

    def rows(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Yield the rows of `images` and `annotations` in the panoptic JSON, which is not kept in memory."""
        if self.unsaved:
            return zip(self.unsaved["images"], self.unsaved["annotations"], strict=True)
        return zip(rows_of(self.json, "images"), rows_of(self.json, "annotations"), strict=True)


def predict(request: PredictRequest, process: Process, reporter: Reporter) -> PredictResult:
    """Segment images and write the outputs, by default `OUT/overlays/<name>.jpg`, `OUT/panoptic/<name>.png` and
    `OUT/panoptic.json`.

    A corrupt image is reported and skipped. `OUT/predict.json` lists the images that failed. If there are any, the
    result log is kept, so that `resume` predicts them again.

    Raises:
        PanformerError: No image is found, the checkpoint or the folder cannot be used, or another process uses it.
    """
    checkpoint = request.changes.read(request.checkpoint, reporter)
    saving, keep = request.output.saving, request.output.selection(checkpoint.categories)
    with ExitStack() as stack:
        found = process.on_first(lambda: _begin(request, saving, stack, reporter))
        results = PanopticResults(request.out, checkpoint.categories, process, has_json=saving.json)
        if found is None:
            return _complete_result(request, results)
        predictor = predictor_of(checkpoint, process, request.precision, request.inference)
        for note in predictor.notes():
            reporter.message(note)
        stack.callback(results.log.close)
        categories = request.output.colored(checkpoint.categories)
        writer = OutputWriter(results, saving, categories)
        failures = predict_images(found, predictor, writer, keep, request.batch_size, reporter)
        unsaved = results.merge()
        process.on_first(lambda: _finish(results, len(found.images), failures, reporter))
        problems = [failure["problem"] for failure in failures.values()]
        result = PredictResult(results.json, problems, len(found.images) - len(problems), unsaved)
        return process.on_first(lambda: _with_gallery(result, request, categories))


def _complete_result(request: PredictRequest, results: PanopticResults) -> PredictResult:
    """Return the result of a prediction that was complete. Without its JSON, the segments are unknown."""
    images = parse_json((request.out / MANIFEST).read_bytes())["images"]
    unsaved = None if results.has_json else panoptic_json([], [], results.categories)
    return PredictResult(results.json, [], images, unsaved, request.output.page_in(request.out))


def _with_gallery(result: PredictResult, request: PredictRequest, categories: CategoryTable) -> PredictResult:
    """Write the page of the gallery if it is wanted, and return the result with its path."""
    if not request.output.gallery:
        return result
    has_overlays = "overlay" in request.output.save
    name = hub_name(request.checkpoint) or request.checkpoint.name
    page = write_gallery_page(request.out, result.rows(), categories, name, has_overlays)
    return replace(result, gallery=page)


def _begin(request: PredictRequest, saving: Saving, stack: ExitStack, reporter: Reporter) -> InputImages | None:
    """Return the images to segment, and lock and prepare the folder of results; None if they all have results."""
    out, found = request.out, request.find()
    for note in found.notes:
        reporter.message(note)
    check_results_folder(out)
    if has_page(out):
        raise PanformerError(
            f"--out {out} has a page ({PAGE}) and its images, with which the overlays would be mixed; choose "
            "another folder"
        )
    _check_not_overwritten(found.images, out, saving.folders)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    stack.enter_context(claimed(out, "written", "a second prediction", reporter))
    settings = settings_of(request, found)
    if request.resume and _is_complete(out, settings):
        shown = "showing its results" if saving.json else f"its segments are not shown, since {JSON} was not saved"
        reporter.message(f"The prediction in {out} is already complete; {shown}")
        return None
    if request.output.gallery:
        check_page(out / GALLERY)
    check_are_results(out, MANIFEST)
    check_images_are_free(out, saving.in_the_way(out, (image.name for image in found.images)))
    PanopticResults.begin(out, settings, request.resume)
    if not saving.is_usual:
        write_list(out, saving.folders)
    return found


def _check_not_overwritten(images: Iterable[InputImage], out: Path, names: Sequence[str]) -> None:
    results = [resolve_links(out) / name for name in {*names, *IMAGE_FOLDERS}]
    folder = cache(resolve_links)  # a folder can have many files
    for image in images:
        path = image.source.path
        real = resolve_links(path) if path.is_symlink() else folder(path.parent)
        if any(map(real.is_relative_to, results)):
            raise PanformerError(f"{image} is in --out {out}, whose results are replaced; choose another folder")


def settings_of(request: PredictRequest, found: InputImages) -> dict[str, Any]:
    """Return the settings that the results depend on."""
    digest = hashlib.sha256()
    for image in found.images:
        digest.update(f"{image.source.identity}\0{image.id}\0{image.name}\n".encode(errors="surrogateescape"))
    settings = {
        "checkpoint": file_stamp(request.checkpoint),
        "precision": request.precision,
        "inputs": [len(found.images), digest.hexdigest()],
        **asdict(request.output),
        "save": sorted(request.output.save),
        **request.changes.to_settings(),
        **request.inference.to_settings(),
    }
    content: dict[str, Any] = json.loads(json.dumps(settings))  # with lists for tuples, as it is stored
    return content


def _is_complete(out: Path, settings: dict[str, Any]) -> bool:
    """Return whether the folder has the results of all images.

    Raises:
        PanformerError: They were predicted with other settings.
    """
    try:
        stored = parse_json((out / MANIFEST).read_bytes())["settings"]
    except (OSError, ValueError, TypeError, KeyError):
        return False
    if PanopticResults.is_begun(out):
        return False
    check_same_settings(out, stored, settings)
    return True


def check_same_settings(out: Path, stored: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise PanformerError if the folder to resume has predictions with other settings."""
    if other := differing(stored, settings):
        raise PanformerError(
            f"{out} has predictions with different settings ({other}); --resume needs the same settings; omit it to "
            "start over"
        )


def _finish(results: PanopticResults, images: int, failures: dict[int, Failure], reporter: Reporter) -> None:
    """Report the failures of other processes, write the manifest, and discard the log if no image failed."""
    for index, failure in failures.items():
        if index % results.process.world_size != results.process.rank:
            reporter.warn(failure["problem"])
    content = {"settings": stored_settings(results.log.folder), "images": images, "failures": [*failures.values()]}
    write_json(results.out / MANIFEST, content)
    if not failures:
        results.log.remove()
