"""Segment images, and write overlays, panoptic PNGs and a panoptic JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from panformer_cli.engine.claimed_folder import claimed
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.inputs.find import InputImages, find_images
from panformer_cli.engine.inputs.input_image import InputImage
from panformer_cli.engine.precision import PrecisionChoice
from panformer_cli.engine.prefetch import behind
from panformer_cli.engine.results import MANIFEST, PanopticResults, check_are_results, check_images_are_free, rows_of
from panformer_cli.engine.runs import check_results_folder
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.models.base import Prediction
from panformer_cli.pages.replacing import PAGE, has_page
from panformer_cli.reporting import Progress, Reporter
from panformer_cli.storage.files import file_stamp, resolve_links, write_json, writing
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.storage.result_log import Line, differing
from panformer_cli.visualization.drawing import DrawOptions, draw_panoptic, save_image
from panformer_cli.wording import counted, listing

WEB_READERS = 8
"""Number of addresses that are read at the same time."""


@dataclass(frozen=True)
class PredictRequest:
    """What to segment.

    Attributes:
        inputs: The images, or the inputs in which `find_images` finds them.
        checkpoint: The checkpoint file.
        out: Folder of the results.
        batch_size: Images per forward pass, 1 or more. It does not change the results: a batch has images of one size.
        precision: Precision of the network. Anything but fp32 changes the results slightly.
        ids_from: JSON with the ids of the images, see `find_images`; used if `inputs` are not images yet.
        resume: Resume an interrupted run in `out`: images that have results are not predicted again. If all have
            results, they are returned.
    """

    inputs: Sequence[str] | InputImages
    checkpoint: Path
    out: Path
    batch_size: int = 1
    precision: PrecisionChoice = "fp32"
    ids_from: Path | None = None
    resume: bool = False

    def find(self) -> InputImages:
        """Return the images of the inputs; errors as `find_images`."""
        if isinstance(self.inputs, InputImages):
            return self.inputs
        return find_images(self.inputs, self.out, self.ids_from)


@dataclass(frozen=True)
class PredictResult:
    """The result of `predict`.

    Attributes:
        json: `OUT/panoptic.json`.
        failures: One message for each image that could not be segmented.
    """

    json: Path
    failures: list[str]

    @cached_property
    def content(self) -> dict[str, Any]:
        """The content of `json`, with all segments."""
        content: dict[str, Any] = json.loads(self.json.read_text(encoding="utf-8"))
        return content

    def rows(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Yield the rows of `images` and `annotations` in `json`, which are not kept in memory."""
        return zip(rows_of(self.json, "images"), rows_of(self.json, "annotations"), strict=True)


def predict(request: PredictRequest, process: Process, reporter: Reporter) -> PredictResult:
    """Segment images and write `OUT/overlays/<name>.jpg`, `OUT/panoptic/<name>.png` and `OUT/panoptic.json`.

    A corrupt image is reported and skipped. `OUT/predict.json` lists the images that failed. If there are any, the
    result log is kept, so that `resume` predicts them again.

    Raises:
        PanformerError: No image is found, the checkpoint or the folder cannot be used, or another process uses it.
    """
    checkpoint = read_checkpoint(request.checkpoint)
    with ExitStack() as stack:
        found = process.on_first(lambda: _begin(request, stack, reporter))
        results = PanopticResults(request.out, checkpoint.categories, process)
        if found is None:
            return PredictResult(results.json, [])
        predictor = Predictor.of(checkpoint, process, request.precision)
        stack.callback(results.log.close)
        own = _predict_share(request, found, predictor, results, reporter)
        failures = dict(sorted((item for part in process.gather(own) for item in part.items()), key=itemgetter(0)))
        results.merge()
        process.on_first(lambda: _finish(request, found, results, failures, reporter))
        return PredictResult(results.json, [failure["problem"] for failure in failures.values()])


def _begin(request: PredictRequest, stack: ExitStack, reporter: Reporter) -> InputImages | None:
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
    _check_not_overwritten(found.images, out)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    stack.enter_context(claimed(out, "written", "a second prediction", reporter))
    settings = _settings(request, found)
    if request.resume and _is_complete(out, settings):
        reporter.message(f"The prediction in {out} is already complete; showing its results")
        return None
    check_are_results(out, MANIFEST)
    check_images_are_free(out, (image.name for image in found.images))
    PanopticResults.begin(out, settings, request.resume)
    return found


def _check_not_overwritten(images: Iterable[InputImage], out: Path) -> None:
    results = [resolve_links(out) / name for name in ("overlays", "panoptic")]
    folder = cache(resolve_links)  # a folder can have many files
    for image in images:
        path = image.source.path
        real = resolve_links(path) if path.is_symlink() else folder(path.parent)
        if any(map(real.is_relative_to, results)):
            raise PanformerError(f"{image} is in --out {out}, whose results are replaced; choose another folder")


def _settings(request: PredictRequest, found: InputImages) -> dict[str, Any]:
    """Return the settings that the results depend on."""
    digest = hashlib.sha256()
    for image in found.images:
        digest.update(f"{image.source.identity}\0{image.id}\0{image.name}\n".encode(errors="surrogateescape"))
    return {
        "checkpoint": file_stamp(request.checkpoint),
        "precision": request.precision,
        "inputs": [len(found.images), digest.hexdigest()],
    }


def _is_complete(out: Path, settings: dict[str, Any]) -> bool:
    """Return whether the folder has the results of all images.

    Raises:
        PanformerError: They were predicted with other settings.
    """
    try:
        stored = parse_json((out / MANIFEST).read_bytes())["settings"]
    except (OSError, ValueError, TypeError, KeyError):
        return False
    if PanopticResults.is_begun(out) or not (out / "panoptic.json").is_file():
        return False
    if other := differing(stored, settings):
        raise PanformerError(
            f"{out} has predictions with different settings ({other}); --resume needs the same settings; omit it to "
            "start over"
        )
    return True


def _predict_share(
    request: PredictRequest, found: InputImages, predictor: Predictor, results: PanopticResults, reporter: Reporter
) -> dict[int, Line]:
    """Predict the images of this process that have no results yet; return those that failed, by position."""
    process, images = results.process, found.images
    done = bytearray(len(images))
    for line in results.done():
        done[line["index"]] = 1
    own = range(process.rank, len(images), process.world_size)
    with reporter.progress("Predicting", len(own) - sum(done)) as progress:
        share = _Share(images, results, reporter, progress)
        waiting = (index for index in own if not done[index])
        for finished in predictor.map(share.read(waiting, found.has_addresses), share.write, request.batch_size):
            share.report(*finished)
    several = process.gather(share.several)
    if count := sum(part.count for part in several):
        names = listing([name for part in several for name in part.first], 3)
        more = f", and {count - 3} more" if count > 3 else ""
        reporter.message(f"Only the first page or frame is used of {counted(count, 'image')}: {names}{more}")
    return share.failures


def _finish(
    request: PredictRequest,
    found: InputImages,
    results: PanopticResults,
    failures: dict[int, Line],
    reporter: Reporter,
) -> None:
    """Report the failures of other processes, write the manifest, and discard the log if no image failed."""
    for index, failure in failures.items():
        if index % results.process.world_size != results.process.rank:
            reporter.warn(failure["problem"])
    content = {"settings": _settings(request, found), "images": len(found.images), "failures": [*failures.values()]}
    write_json(request.out / MANIFEST, content)
    if not failures:
        results.log.remove()


@dataclass
class _Several:
    """Images with several pages or frames: their number, and the names of the first ones."""

    count: int = 0
    first: tuple[str, ...] = ()

    def add(self, name: str) -> None:
        self.count += 1
        self.first = (*self.first, name)[:3]


@dataclass(frozen=True)
class _Loaded:
    """An image that was read, or the problem if it could not be."""

    index: int
    source: InputImage
    pixels: ImageArray | None = None
    has_more: bool = False
    problem: DataError | None = None


class _Share:
    """The images of one process; an image that fails is reported and skipped.

    Attributes:
        failures: The images that failed, by position: input, file name, id and problem.
        several: The images with several pages or frames.
    """

    def __init__(
        self, images: Sequence[InputImage], results: PanopticResults, reporter: Reporter, progress: Progress
    ) -> None:
        self._images = images
        self._results = results
        self._reporter = reporter
        self._progress = progress
        self.failures: dict[int, Line] = {}
        self.several = _Several()

    def read(self, indices: Iterable[int], ahead: bool) -> Iterator[tuple[_Loaded, ImageArray]]:
        """Yield the readable images for `Predictor.map`. With `ahead`, threads wait for the next ones."""
        images = ((index, self._images[index]) for index in indices)
        for loaded in behind(images, _load, WEB_READERS) if ahead else map(_load, images):
            if loaded.pixels is None:
                self.report(loaded, loaded.problem)
                continue
            if loaded.has_more:
                self.several.add(loaded.source.file_name)
            yield loaded, loaded.pixels

    def write(self, image: _Loaded, prediction: Prediction) -> tuple[_Loaded, DataError | None]:
        """Write the results of an image; return it and the error, if there was one."""
        source, panoptic = image.source, prediction.panoptic
        assert image.pixels is not None, "only readable images are predicted"
        overlay = draw_panoptic(image.pixels, panoptic, self._results.categories, DrawOptions(scores=True))
        try:
            save_image(self._results.out / "overlays" / Path(source.name).with_suffix(".jpg"), overlay)
            png_name = Path(source.name).with_suffix(".png").as_posix()
            self._results.add(image.index, source.id, (source.file_name, png_name), panoptic)
        except DataError as error:
            return image, error
        return image, None

    def report(self, image: _Loaded, problem: DataError | None) -> None:
        """Report an image that is done or failed."""
        if problem is not None:
            source = image.source
            row = {"input": str(source), "file_name": source.file_name, "id": source.id, "problem": str(problem)}
            self.failures[image.index] = row
            self._reporter.warn(str(problem))
        self._progress.advance(status=image.source.file_name)


def _load(image: tuple[int, InputImage]) -> _Loaded:
    """Read an image."""
    index, source = image
    try:
        return _Loaded(index, source, *source.read_first())
    except DataError as error:
        return _Loaded(index, source, problem=error)
