"""The loop of `predict`: read the images of this process, run the model, write the results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TypedDict

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import ImageArray, PanopticMap
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.inputs.find import InputImages
from panformer_cli.engine.inputs.ids import ImageId
from panformer_cli.engine.inputs.input_image import InputImage
from panformer_cli.engine.outputs.registry import SegmentedImage
from panformer_cli.engine.outputs.selection import SegmentSelection
from panformer_cli.engine.outputs.writing import OutputWriter
from panformer_cli.engine.prefetch import behind
from panformer_cli.errors import DataError
from panformer_cli.models.base import Prediction
from panformer_cli.reporting import Progress, Reporter
from panformer_cli.wording import counted

SHOWN = 3
"""Number of images that a message names."""
WEB_READERS = 8
"""Number of addresses that are read at the same time."""


class Failure(TypedDict):
    """An image that could not be segmented.

    Attributes:
        input: The image, as messages call it.
        file_name: As in the JSON.
        id: As in the JSON.
        problem: The message.
    """

    input: str
    file_name: str
    id: ImageId
    problem: str


def predict_images(
    found: InputImages,
    predictor: Predictor,
    writer: OutputWriter,
    selection: SegmentSelection,
    batch_size: int,
    reporter: Reporter,
) -> dict[int, Failure]:
    """Predict the images that have no results yet, each process its share.

    Args:
        found: All images.
        predictor: The model.
        writer: Writes the results.
        selection: The segments to keep.
        batch_size: Images per forward pass.
        reporter: Shows the progress.

    Returns:
        The images of all processes that failed, by position.
    """
    results, images = writer.results, found.images
    process, done = results.process, bytearray(len(images))
    for line in results.done():
        done[line["index"]] = 1
    own = range(process.rank, len(images), process.world_size)
    with reporter.progress("Predicting", len(own) - sum(done)) as progress:
        share = _Share(images, predictor, writer, selection, reporter, progress)
        waiting = share.read((index for index in own if not done[index]), found.has_addresses)
        for image, problem in predictor.map(waiting, share.write, batch_size):
            share.report(image, problem)
    _report_several(process.gather(share.several), reporter)
    failures = (item for part in process.gather(share.failures) for item in part.items())
    return dict(sorted(failures, key=itemgetter(0)))


def _report_several(parts: Sequence[_Several], reporter: Reporter) -> None:
    count, names = sum(part.count for part in parts), [name for part in parts for name in part.first]
    if count:
        more = f", and {count - SHOWN} more" if count > SHOWN else ""
        first = ", ".join(names[:SHOWN])
        reporter.message(f"Only the first page or frame is used of {counted(count, 'image')}: {first}{more}")


@dataclass
class _Several:
    """Images with several pages or frames: their number, and the names of the first ones."""

    count: int = 0
    first: tuple[str, ...] = ()

    def add(self, name: str) -> None:
        self.count += 1
        self.first = (*self.first, name)[:SHOWN]


@dataclass(frozen=True)
class Loaded:
    """An image that was read, or the problem if it could not be.

    Attributes:
        index: Position of the image among those to predict.
        source: The input.
        pixels: (H, W, 3) uint8 RGB; None if it could not be read.
        has_more: Whether its file has several pages or frames.
        problem: Why it could not be read.
    """

    index: int
    source: InputImage
    pixels: ImageArray | None = None
    has_more: bool = False
    problem: DataError | None = None


def segmented_image(
    image: Loaded, panoptic: PanopticMap, predictor: Predictor, categories: CategoryTable
) -> SegmentedImage:
    """Return a readable image with the segments that are kept, as outputs receive it.

    `categories` has the colors of the drawings.
    """
    source, pixels = image.source, image.pixels
    assert pixels is not None, "only readable images are predicted"
    described = predictor.described((pixels.shape[0], pixels.shape[1]))
    return SegmentedImage(pixels, panoptic, categories, source.id, source.file_name, described)


class _Share:
    """The images of one process; an image that fails is reported and skipped.

    Attributes:
        failures: The images that failed, by position: input, file name, id and problem.
        several: The images with several pages or frames.
    """

    def __init__(
        self,
        images: Sequence[InputImage],
        predictor: Predictor,
        writer: OutputWriter,
        selection: SegmentSelection,
        reporter: Reporter,
        progress: Progress,
    ) -> None:
        self._images = images
        self._predictor = predictor
        self._writer = writer
        self._selection = selection
        self._reporter = reporter
        self._progress = progress
        self.failures: dict[int, Failure] = {}
        self.several = _Several()

    def read(self, indices: Iterable[int], ahead: bool) -> Iterator[tuple[Loaded, ImageArray]]:
        """Yield the readable images for `Predictor.map`. With `ahead`, threads wait for the next ones."""
        images = ((index, self._images[index]) for index in indices)
        for loaded in load_all(images, ahead):
            if loaded.pixels is None:
                self.report(loaded, loaded.problem)
                continue
            if loaded.has_more:
                self.several.add(loaded.source.file_name)
            yield loaded, loaded.pixels

    def write(self, image: Loaded, prediction: Prediction) -> tuple[Loaded, DataError | None]:
        """Write the results of an image; return it and the error, if there was one."""
        panoptic = self._selection(prediction.panoptic)
        segmented = segmented_image(image, panoptic, self._predictor, self._writer.categories)
        try:
            self._writer.write(image.index, segmented, image.source.name)
        except DataError as error:
            return image, error
        return image, None

    def report(self, image: Loaded, problem: DataError | None) -> None:
        """Report an image that is done or failed."""
        if problem is not None:
            self.failures[image.index] = failure_of(image.source, problem)
            self._reporter.warn(str(problem))
        self._progress.advance(status=image.source.file_name)


def failure_of(image: InputImage, problem: DataError) -> Failure:
    """Return an image that could not be segmented, with the message."""
    return {"input": str(image), "file_name": image.file_name, "id": image.id, "problem": str(problem)}


def load_all(images: Iterable[tuple[int, InputImage]], ahead: bool) -> Iterator[Loaded]:
    """Read images, given with their positions, in order. With `ahead`, threads wait for the next ones."""
    return behind(images, _load, WEB_READERS) if ahead else map(_load, images)


def _load(image: tuple[int, InputImage]) -> Loaded:
    """Read an image."""
    index, source = image
    try:
        return Loaded(index, source, *source.read_first())
    except DataError as error:
        return Loaded(index, source, problem=error)
