"""Segment images, and write overlays, panoptic PNGs, a panoptic JSON or other outputs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.images import has_more_frames
from panformer_cli.data.result_folders import IMAGE_FOLDERS
from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.inference_changes import InferenceChanges
from panformer_cli.engine.inputs.find import InputImages, find_images
from panformer_cli.engine.inputs.input_image import InputImage
from panformer_cli.engine.outputs.file_list import write_list
from panformer_cli.engine.outputs.gallery import write_gallery_page
from panformer_cli.engine.outputs.names import GALLERY
from panformer_cli.engine.outputs.options import OutputOptions
from panformer_cli.engine.outputs.registry import Saving, SegmentedImage
from panformer_cli.engine.outputs.selection import SegmentSelection
from panformer_cli.engine.outputs.writing import OutputWriter
from panformer_cli.engine.precision import PrecisionChoice
from panformer_cli.engine.results import PanopticResults, check_images_are_free
from panformer_cli.engine.runs import check_results_folder
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.models.base import Prediction
from panformer_cli.pages.replacing import PAGE, check_page, has_page
from panformer_cli.reporting import Progress, Reporter
from panformer_cli.storage.files import resolve_links
from panformer_cli.wording import counted, listing


@dataclass(frozen=True)
class PredictRequest:
    """What to segment.

    Attributes:
        inputs: Image files, folders (searched recursively) and glob patterns.
        checkpoint: The checkpoint file.
        out: Folder of the results.
        batch_size: Images per forward pass, 1 or more. It does not change the results: a batch has images of one size.
        precision: Precision of the network. Anything but fp32 changes the results slightly.
        ids_from: JSON with the ids of the images, see `find_images`.
        output: What is written.
        changes: Settings that differ from those of the checkpoint.
    """

    inputs: Sequence[str]
    checkpoint: Path
    out: Path
    batch_size: int = 1
    precision: PrecisionChoice = "fp32"
    ids_from: Path | None = None
    output: OutputOptions = OutputOptions()
    changes: InferenceChanges = InferenceChanges()


@dataclass(frozen=True)
class PredictResult:
    """The result of `predict`.

    Attributes:
        json: `OUT/panoptic.json`, which exists unless it was left out of the outputs.
        failures: One message for each image that could not be segmented.
        unsaved: The content of the JSON if it was left out.
        gallery: The page of the gallery, if there is one.
    """

    json: Path
    failures: list[str]
    unsaved: dict[str, Any] | None = None
    gallery: Path | None = None

    @cached_property
    def content(self) -> dict[str, Any]:
        """The content of the panoptic JSON, with all segments."""
        content: dict[str, Any] = self.unsaved or json.loads(self.json.read_text(encoding="utf-8"))
        return content


def predict(request: PredictRequest, process: Process, reporter: Reporter) -> PredictResult:
    """Segment images and write the outputs, by default `OUT/overlays/<name>.jpg`, `OUT/panoptic/<name>.png` and
    `OUT/panoptic.json`.

    A corrupt image is reported and skipped.

    Raises:
        PanformerError: No image is found, or the checkpoint or the folder cannot be used.
    """
    checkpoint = request.changes.applied_to(read_checkpoint(request.checkpoint))
    saving, keep = request.output.saving, request.output.selection(checkpoint.categories)
    found = process.on_first(lambda: _begin(request, saving))
    images = found.images
    predictor = Predictor.of(checkpoint, process, request.precision)
    for note in found.notes:
        reporter.message(note)
    results = PanopticResults(request.out, checkpoint.categories, process, has_json=saving.json)
    categories = request.output.colored(checkpoint.categories)
    own = range(process.rank, len(images), process.world_size)
    with closing(results.log), reporter.progress("Predicting", len(own)) as progress:
        share = _Share(images, OutputWriter(results, saving), categories, keep, reporter, progress)
        for index, problem in predictor.map(share.read(own), share.write, request.batch_size):
            share.report(index, problem)
    several = [name for part in process.gather(share.several) for name in part]
    if several:
        reporter.message(
            f"Only the first page or frame is used of {counted(len(several), 'image')}: {listing(several, 3)}"
        )
    failures = process.gather(share.failures)
    for failure in (failure for part in failures[1:] for failure in part):
        reporter.warn(failure)
    unsaved = results.finish()
    result = PredictResult(results.json, [failure for part in failures for failure in part], unsaved)
    return process.on_first(lambda: _with_gallery(result, request, categories)) if request.output.gallery else result


def _with_gallery(result: PredictResult, request: PredictRequest, categories: CategoryTable) -> PredictResult:
    """Write the page of the gallery, and return the result with its path."""
    has_overlays = "overlay" in request.output.save
    page = write_gallery_page(request.out, result.content, categories, request.checkpoint.name, has_overlays)
    return replace(result, gallery=page)


def _begin(request: PredictRequest, saving: Saving) -> InputImages:
    """Return the images to segment, and prepare the folder of results."""
    found = find_images(request.inputs, request.out, request.ids_from)
    check_results_folder(request.out)
    if has_page(request.out):
        raise PanformerError(
            f"--out {request.out} has a page ({PAGE}) and its images, with which the overlays would be mixed; choose "
            "another folder"
        )
    if request.output.gallery:
        check_page(request.out / GALLERY)
    _check_not_overwritten(found.images, request.out, saving.folders)
    check_images_are_free(request.out, saving.in_the_way(request.out, (image.name for image in found.images)))
    PanopticResults.begin(request.out, {})
    if not saving.is_usual:
        write_list(request.out, saving.folders)
    return found


def _check_not_overwritten(images: Sequence[InputImage], out: Path, names: Sequence[str]) -> None:
    folders = [resolve_links(out) / name for name in {*names, *IMAGE_FOLDERS}]
    for image in images:
        if any(resolve_links(image.source.path).is_relative_to(folder) for folder in folders):
            raise PanformerError(f"{image} is in --out {out}, whose results are replaced; choose another folder")


class _Share:
    """The images of one process; an image that fails is reported and skipped.

    Attributes:
        failures: One message for each image that failed, in the order they occurred.
        several: Names of the images with several pages or frames.
    """

    def __init__(
        self,
        images: Sequence[InputImage],
        writer: OutputWriter,
        categories: CategoryTable,
        selection: SegmentSelection,
        reporter: Reporter,
        progress: Progress,
    ) -> None:
        self._images = images
        self._writer = writer
        self._categories = categories
        self._selection = selection
        self._reporter = reporter
        self._progress = progress
        self.failures: list[str] = []
        self.several: list[str] = []

    def read(self, indices: Iterable[int]) -> Iterator[tuple[tuple[int, ImageArray], ImageArray]]:
        """Yield the readable images for `Predictor.map`; the key is the position and the image."""
        for index in indices:
            try:
                image = self._images[index].read()
            except DataError as error:
                self.report(index, error)
            else:
                if has_more_frames(self._images[index].source.path):
                    self.several.append(self._images[index].file_name)
                yield (index, image), image

    def write(self, key: tuple[int, ImageArray], prediction: Prediction) -> tuple[int, DataError | None]:
        """Write the results of an image; return its position and the error, if there was one."""
        index, image = key
        source, panoptic = self._images[index], self._selection(prediction.panoptic)
        segmented = SegmentedImage(image, panoptic, self._categories, source.id, source.file_name)
        try:
            self._writer.write(index, segmented, source.name)
        except DataError as error:
            return index, error
        return index, None

    def report(self, index: int, problem: DataError | None) -> None:
        """Report an image that is done or failed."""
        if problem is not None:
            self.failures.append(str(problem))
            self._reporter.warn(str(problem))
        self._progress.advance(status=self._images[index].file_name)
