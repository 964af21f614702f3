"""Segment images, and write overlays, panoptic PNGs and a panoptic JSON."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from panformer_cli.data.images import IMAGE_SUFFIXES, read_image
from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.precision import PrecisionChoice
from panformer_cli.engine.results import PanopticResults
from panformer_cli.engine.runs import check_results_folder
from panformer_cli.errors import DataError
from panformer_cli.models.base import Prediction
from panformer_cli.reporting import Progress, Reporter
from panformer_cli.storage.files import resolve_links
from panformer_cli.visualization.drawing import DrawOptions, draw_panoptic, save_image


@dataclass(frozen=True)
class PredictRequest:
    """What to segment.

    Attributes:
        inputs: Image files, folders (searched recursively) and glob patterns.
        checkpoint: The checkpoint file.
        out: Folder of the results.
        batch_size: Images per forward pass, 1 or more. It does not change the results: a batch has images of one size.
        precision: Precision of the network. Anything but fp32 changes the results slightly.
    """

    inputs: Sequence[str]
    checkpoint: Path
    out: Path
    batch_size: int = 1
    precision: PrecisionChoice = "fp32"


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


@dataclass(frozen=True)
class InputImage:
    """An image to segment.

    Attributes:
        path: The image file.
        id: Id in the JSON. If all file names are different numbers, as in COCO, that number; else counted from 1.
        name: File name in the results, a relative path that is unique without its suffix.
    """

    path: Path
    id: int
    name: str


def predict(request: PredictRequest, process: Process, reporter: Reporter) -> PredictResult:
    """Segment images and write `OUT/overlays/<name>.jpg`, `OUT/panoptic/<name>.png` and `OUT/panoptic.json`.

    A corrupt image is reported and skipped.

    Raises:
        PanformerError: No image is found, or the checkpoint or the folder cannot be used.
    """
    checkpoint = read_checkpoint(request.checkpoint)
    images = process.on_first(lambda: _begin(request))
    predictor = Predictor.of(checkpoint, process, request.precision)
    results = PanopticResults(request.out, checkpoint.categories, process)
    own = range(process.rank, len(images), process.world_size)
    with reporter.progress("Predicting", len(own)) as progress:
        share = _Share(images, results, reporter, progress)
        for index, problem in predictor.map(share.read(own), share.write, request.batch_size):
            share.report(index, problem)
    failures = process.gather(share.failures)
    for failure in (failure for part in failures[1:] for failure in part):
        reporter.warn(failure)
    results.finish()
    return PredictResult(results.json, [failure for part in failures for failure in part])


def _begin(request: PredictRequest) -> list[InputImage]:
    """Return the images to segment, and prepare the folder of results."""
    images = find_images(request.inputs, request.out)
    check_results_folder(request.out)
    PanopticResults.begin(request.out, {})
    return images


def find_images(inputs: Sequence[str], out: Path) -> list[InputImage]:
    """Return the images of all inputs, in the order of the inputs; folders and patterns are sorted.

    Args:
        inputs: Image files, folders and glob patterns.
        out: Folder of the results. Images in it are skipped, unless they are given by name.

    Raises:
        DataError: An input does not exist, or a folder has no images.
    """
    found: dict[Path, str] = {}
    for given in inputs:
        for path, name in _expand(given, resolve_links(out)):
            found.setdefault(path, name)
    names = _distinct([Path(name) for name in found.values()])
    numbers = [path.stem for path in found]
    numbered = all(number.isdecimal() for number in numbers) and len(set(map(int, numbers))) == len(numbers)
    return [
        InputImage(path, int(path.stem) if numbered else position, name)
        for position, (path, name) in enumerate(zip(found, names, strict=True), start=1)
    ]


def _expand(given: str, out: Path) -> list[tuple[Path, str]]:
    """Return the image files of one input, each with its name in the results."""
    path = Path(given)
    if path.is_dir():
        inside = (file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        files = sorted(file for file in inside if not resolve_links(file).is_relative_to(out))
        if not files:
            raise DataError(
                f"the folder {path} has no images; expected files with the suffixes {', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        return [(file, file.relative_to(path).as_posix()) for file in files]
    if path.is_file():
        return [(path, path.name)]
    matches = [Path(match) for match in sorted(glob.glob(given, recursive=True))]  # noqa: PTH207 (absolute patterns)
    files = [match for match in matches if match.is_file() and not resolve_links(match).is_relative_to(out)]
    if not files:
        raise DataError(
            f"no such image, folder or pattern: {given}; give image files, folders or patterns such as 'photos/*.jpg'"
        )
    return [(file, file.name) for file in files]


def _distinct(names: list[Path]) -> list[str]:
    """Return the names, with a number where two would give the same result file.

    `:` and `\\` become `_`, since they separate drives and folders on some systems.
    """
    taken: set[str] = set()
    distinct = []
    for name in names:
        name = Path(*(re.sub(r"[:\\]", "_", part) for part in name.parts))
        candidate, number = name, 1
        while candidate.with_suffix("").as_posix().lower() in taken:
            number += 1
            candidate = name.with_stem(f"{name.stem}_{number}")
        taken.add(candidate.with_suffix("").as_posix().lower())
        distinct.append(candidate.as_posix())
    return distinct


class _Share:
    """The images of one process; an image that fails is reported and skipped.

    Attributes:
        failures: One message for each image that failed, in the order they occurred.
    """

    def __init__(
        self, images: Sequence[InputImage], results: PanopticResults, reporter: Reporter, progress: Progress
    ) -> None:
        self._images = images
        self._results = results
        self._reporter = reporter
        self._progress = progress
        self.failures: list[str] = []

    def read(self, indices: Iterable[int]) -> Iterator[tuple[tuple[int, ImageArray], ImageArray]]:
        """Yield the readable images for `Predictor.map`; the key is the position and the image."""
        for index in indices:
            try:
                image = read_image(self._images[index].path)
            except DataError as error:
                self.report(index, error)
            else:
                yield (index, image), image

    def write(self, key: tuple[int, ImageArray], prediction: Prediction) -> tuple[int, DataError | None]:
        """Write the results of an image; return its position and the error, if there was one."""
        index, image = key
        source, panoptic = self._images[index], prediction.panoptic
        overlay = draw_panoptic(image, panoptic, self._results.categories, DrawOptions(scores=True))
        try:
            save_image(self._results.out / "overlays" / Path(source.name).with_suffix(".jpg"), overlay)
            png_name = Path(source.name).with_suffix(".png").as_posix()
            self._results.add(index, source.id, (source.name, png_name), panoptic)
        except DataError as error:
            return index, error
        return index, None

    def report(self, index: int, problem: DataError | None) -> None:
        """Report an image that is done or failed."""
        if problem is not None:
            self.failures.append(str(problem))
            self._reporter.warn(str(problem))
        self._progress.advance(status=self._images[index].name)
