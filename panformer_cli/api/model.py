"""Load a model and segment images with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import Any, overload

from panformer_cli.api.arrays import ColorOrder, check_color
from panformer_cli.api.inputs import ImageLike, NamedImage, find_named, is_one_image, read_or_error, without_errors
from panformer_cli.api.options import (
    changes_of,
    check_range,
    checkpoint_of,
    inference_of,
    output_of,
    precision_of,
    with_saved_model,
)
from panformer_cli.api.reporters import reporter_of
from panformer_cli.api.result import Result
from panformer_cli.api.tracking import frames_of, tracked
from panformer_cli.api.wording import python_errors
from panformer_cli.data.categories import CategoryTable
from panformer_cli.engine.checkpoints.model_folders import shown_name
from panformer_cli.engine.combined.choose import predictor_of
from panformer_cli.engine.combined.options import InferenceOptions
from panformer_cli.engine.distributed.runtime import Process, explained_out_of_memory
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.inference_changes import InferenceChanges
from panformer_cli.engine.outputs.options import OutputOptions
from panformer_cli.engine.outputs.selection import SegmentSelection
from panformer_cli.engine.precision import PrecisionChoice
from panformer_cli.engine.runs import find_checkpoint
from panformer_cli.engine.video.options import MEMORY
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.reporting import Reporter

DEFAULT_WEIGHTS = "r50"
"""Published weights that are loaded if no checkpoint is named and there is no run, as by `panformer predict`."""


@dataclass(frozen=True)
class LoadOptions:
    """How a checkpoint is loaded: the arguments of `load`, by which a pickled model is loaded again.

    Attributes:
        checkpoint: The absolute path of the file.
        device: As for `load`.
        precision: As for `load`.
        changes: Settings that differ from those of the checkpoint.
        inference: Tiles, views and mask layers.
        output: Which segments are kept, and their colors.
    """

    checkpoint: Path
    device: str
    precision: PrecisionChoice
    changes: InferenceChanges
    inference: InferenceOptions
    output: OutputOptions


@python_errors
def load(
    checkpoint: str | PathLike[str] | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    threshold: float | None = None,
    overlap: float | None = None,
    max_size: int | None = None,
    classes: str | int | Sequence[str | int] | None = None,
    min_area: int = 0,
    tile: int | None = None,
    tile_overlap: int | None = None,
    tile_whole_image: bool = False,
    tta: str | Sequence[str | float] | None = None,
    mask_layers: int | None = None,
    colors: str = "standard",
    short_side: int | None = None,
    long_side: int | None = None,
    label_map: str | PathLike[str] | Mapping[str | int, int] | None = None,
    categories: str | PathLike[str] | None = None,
    hf_post_processing: bool = False,
    verbose: bool = True,
    **settings: Any,
) -> Model:
    """Load a model for inference.

    Args:
        checkpoint: The path of a checkpoint, the folder of a run, or the name of published weights such as `r50`, which
            are downloaded once. An official `.pth` can be used, too; a file that needs more than tensors is refused, so
            loading never runs code. `hf:OWNER/NAME[@REVISION]` is a model that transformers saved on the Hugging Face
            Hub, `hf:FOLDER` in a folder; `hub:USER/NAME[@REVISION]` is a model that `panformer weights push` published
            there. None for the newest run in `./runs`, else `r50`.
        device: `auto` (the GPU if there is one, else the CPU), `cpu`, `cuda`, `cuda:1` or `mps`.
        precision: `fp32`, `bf16`, `fp16`, `fast` (the fastest that the device supports) or `auto`, which is the
            commands' default, fp32. Anything but fp32 changes the results slightly.
        threshold: Minimum score of a segment, 0..1. None: as in the checkpoint.
        overlap: Maximum share of a segment, 0..1, that segments with higher scores may cover. None: as in the
            checkpoint.
        max_size: Maximum length in pixels of the long side of the image that the network receives, 32 or more: faster,
            less accurate. Results have the size of the image.
        classes: Keep only segments of these categories, names or ids; None for all. The rest becomes void.
        min_area: Keep only segments of at least this number of pixels.
        tile: Run large images in tiles with sides of this number of pixels, and join the results.
        tile_overlap: Pixels that adjacent tiles share; None for an eighth of the tile.
        tile_whole_image: Also run the whole image, to find objects that are larger than a tile.
        tta: Views of each image that are averaged: `flip`, `scales`, or factors, as `"flip,0.75"` or `["flip", 0.75]`.
        mask_layers: Number of layers of the mask decoders, which makes it faster; None for all.
        colors: Colors of overlays: `standard`, those of the data set or of COCO, or `safe` for color-blind people.
        short_side: Length in pixels of the short side of the image that the network receives. None: as in the
            checkpoint.
        long_side: Its maximum length of the long side, in pixels. None: as in the checkpoint.
        label_map: For `hf:` models, category ids by label or name, or the path of a JSON with them. None: by name.
        categories: For `hf:` models, the path of a panoptic JSON with the categories of the results. None: those of the
            model.
        hf_post_processing: For `hf:` models, merge the masks as transformers does, not as the original project does.
        verbose: Whether a download shows its progress on stderr. Otherwise messages go to the logger `panformer`.
        settings: Other settings of inference, as `inference={"top_k": 50}`.

    Raises:
        CheckpointError: The checkpoint does not exist or cannot be used.
        RecipeError: A setting does not exist or has an invalid value.
        PanformerError: An argument is out of range, the device is not available or does not support the precision, the
            model has no such category or does not support an option, or a download fails.

    Examples:
        >>> import panformer
        >>> model = panformer.load("runs/colors", device="cpu")
        >>> model
        Model(runs/colors/model.safetensors, 3 categories, cpu, fp32)
        >>> panformer.load("R50")
        Traceback (most recent call last):
            ...
        panformer_cli.errors.CheckpointError: checkpoint R50: no such file; did you mean r50? ...
    """
    given = checkpoint_of(checkpoint)
    choice, changes = precision_of(precision), changes_of(threshold, overlap, max_size, settings)
    changes = with_saved_model(changes, short_side, long_side, label_map, categories, hf_post_processing)
    inference = inference_of(tile, tile_overlap, tile_whole_image, tta, mask_layers)
    output = output_of(classes, min_area, colors)
    reporter = reporter_of(verbose)
    found = find_checkpoint(given, reporter, DEFAULT_WEIGHTS)
    return _load(LoadOptions(found, device, choice, changes, inference, output), reporter)


class Model:
    """A model on a device, made by `load`. Call it with one image or several.

    Threads can share a model: a call keeps nothing in it. A model can be pickled; the copy is loaded from the same
    file.

    Examples:
        >>> import panformer
        >>> model = panformer.load("runs/colors", device="cpu")
        >>> model.names
        {1: 'red', 2: 'green', 5: 'sky'}
    """

    def __init__(
        self,
        predictor: Predictor,
        keep: SegmentSelection,
        categories: CategoryTable,
        options: LoadOptions,
        name: str,
    ) -> None:
        self._predictor = predictor
        self._keep = keep
        self._categories = categories
        self._options = options
        self._name = name

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a binary file is an iterator, too
        self, source: ImageLike, *, batch_size: int = 1, color: ColorOrder = "rgb"
    ) -> Result: ...

    @overload
    def __call__(
        self, source: list[Any] | tuple[Any, ...], *, batch_size: int = 1, color: ColorOrder = "rgb"
    ) -> list[Result]: ...

    @overload
    def __call__(
        self, source: Iterator[ImageLike], *, batch_size: int = 1, color: ColorOrder = "rgb"
    ) -> Iterator[Result]: ...

    def __call__(
        self, source: ImageLike | Iterable[ImageLike], *, batch_size: int = 1, color: ColorOrder = "rgb"
    ) -> Result | list[Result] | Iterator[Result]:
        """Segment images.

        Args:
            source: One image or several. An image is
                - the path of a file or a URL,
                - the content of an image file, as bytes or an open binary file,
                - an image of Pillow, whose EXIF orientation is applied,
                - a uint8 array, (H, W, 3), (H, W, 4), whose alpha is ignored, or (H, W), with any strides,
                - a uint8 tensor on any device, (3, H, W).
            batch_size: Images per forward pass, 1 or more. Results change by rounding at most: only images that have
                the same size after resizing share a pass.
            color: Order of the channels of arrays and tensors: `rgb`, or `bgr` for frames of OpenCV.

        Returns:
            A result for one image, a list for a list or a tuple, and an iterator for any other iterable, such as a
            generator. The results have the order of the images. The iterator reads an image when its batch is due, and
            keeps nothing, so an endless source needs no more memory than a batch.

        Raises:
            DataError: An image cannot be read, or is not uint8. An iterator raises it in place of the result.
            PanformerError: Memory ran out.

        Examples:
            >>> import panformer
            >>> model = panformer.load("runs/colors", device="cpu")
            >>> model("street.png").source
            'street.png'
            >>> [result.size for result in model(["street.png", "street.png"])]
            [(48, 64), (48, 64)]
            >>> for result in model(path for path in ["street.png"]):
            ...     print(len(result))
            2
        """
        check_color(color)
        check_range("batch_size", batch_size, 1)
        if is_one_image(source):
            return next(self._results(iter([read_or_error(source, "the image", color)]), 1))
        if isinstance(source, Mapping) or not isinstance(source, Iterable):
            raise DataError(
                f"an object of type {type(source).__name__} cannot be segmented; expected an image (a path, URL, "
                "array, tensor or image of Pillow), a list of images or a generator of images"
            )
        images = (read_or_error(item, f"image {number}", color) for number, item in enumerate(source))
        results = self._results(images, batch_size)
        return list(results) if isinstance(source, (list, tuple)) else results

    def stream(
        self,
        inputs: str | PathLike[str] | Sequence[str | PathLike[str]],
        *,
        batch_size: int = 1,
        skip_bad_images: bool = False,
    ) -> Iterator[Result]:
        """Segment the images of folders and other inputs, one batch at a time.

        Args:
            inputs: One or several of the inputs of `panformer predict`: files, folders, which are searched recursively,
                patterns such as `photos/*.jpg`, zip archives, http and https addresses, text files with names, COCO
                JSONs, and `-` for standard input.
            batch_size: As for a call.
            skip_bad_images: Skip images that cannot be read, with a warning in the log `panformer`.

        Returns:
            An iterator of results in the order of the inputs; folders and patterns are sorted.

        Raises:
            DataError: An input does not exist or has no images; raised at once. An iterator raises it in place of the
                result of an image that cannot be read.

        Examples:
            >>> import panformer
            >>> model = panformer.load("runs/colors", device="cpu")
            >>> [result.source for result in model.stream("*.png")]
            ['street.png']
        """
        check_range("batch_size", batch_size, 1)
        given = [inputs] if isinstance(inputs, (str, PathLike)) else inputs
        if not isinstance(given, Sequence) or not all(isinstance(item, (str, PathLike)) for item in given):
            raise PanformerError("stream takes names of files, folders and other inputs; call the model with images")
        images = find_named([fspath(item) for item in given])
        return self._results(without_errors(images) if skip_bad_images else images, batch_size)

    def track(
        self,
        video: str | PathLike[str] | int | Iterable[ImageLike],
        *,
        stride: int = 1,
        memory: int = MEMORY,
        batch_size: int = 1,
        color: ColorOrder = "rgb",
    ) -> Iterator[Result]:
        """Segment a video, one batch of frames at a time. Segment ids are tracks: they stay with an object.

        Args:
            video: The path of a video, the number of a camera, or the frames in order, as for a call.
            stride: Every how many-th frame is segmented, 1 or more.
            memory: Largest number of frames of the video for which an object can be hidden and keep its id.
            batch_size: As for a call.
            color: As for a call; for frames that are passed.

        Returns:
            An iterator of results, one for each segmented frame. Ids count from 1 in every call. In overlays, an object
            keeps its color, and its name is followed by its id.

        Raises:
            DataError: The video or the camera cannot be used; raised at once. A frame has another size.

        Examples:
            >>> import panformer
            >>> model = panformer.load("runs/colors", device="cpu")
            >>> for result in model.track(["street.png", "street.png"]):
            ...     print([(segment.id, segment.name) for segment in result.segments])
            [(1, 'red'), (2, 'sky')]
            [(1, 'red'), (2, 'sky')]
        """
        for name, value, least in (("stride", stride, 1), ("memory", memory, 0), ("batch_size", batch_size, 1)):
            check_range(name, value, least)
        check_color(color)
        images: Iterator[NamedImage | DataError]
        if isinstance(video, (str, PathLike, int)):
            images = frames_of(video, stride)
        else:
            frames = islice(video, 0, None, stride)
            images = (read_or_error(item, f"frame {index * stride}", color) for index, item in enumerate(frames))
        return tracked(self._results(images, batch_size), self.categories, stride, memory)

    def _results(self, images: Iterator[NamedImage | DataError], batch_size: int) -> Iterator[Result]:
        """Yield the results in the order of the images; an error is raised in the place of its result."""
        while True:
            batch, problem = _next_batch(images, batch_size)
            if batch:
                yield from self._run(batch)
            if problem is not None:
                raise problem
            if len(batch) < batch_size:
                return

    def _run(self, batch: list[NamedImage]) -> Iterator[Result]:
        with explained_out_of_memory():
            found = dict(self._predictor.stream(enumerate(named.image for named in batch), len(batch)))
            for number, (image, source) in enumerate(batch):
                yield Result.of(image, self._keep(found.pop(number).panoptic), self.categories, source)

    @property
    def categories(self) -> CategoryTable:
        """The category table of the model, with the colors of overlays."""
        return self._categories

    @property
    def names(self) -> dict[int, str]:
        """The names of the categories by category id: first things, then stuff."""
        return {category.id: category.name for category in self.categories.categories}

    @property
    def checkpoint(self) -> Path:
        """The file with the weights, an absolute path."""
        return self._options.checkpoint

    @property
    def device(self) -> str:
        """Where it runs, such as `cpu` or `cuda:0`."""
        return str(self._predictor.device)

    @property
    def precision(self) -> str:
        """The precision of the network: `fp32`, `bf16` or `fp16`."""
        return self._predictor.precision

    def __repr__(self) -> str:
        return f"Model({self._name}, {len(self.categories)} categories, {self.device}, {self.precision})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle how the model was loaded: optimized layers and a GPU's memory belong to one process."""
        return _load, (self._options,)


def _load(options: LoadOptions, reporter: Reporter | None = None) -> Model:
    checkpoint = options.changes.read(options.checkpoint, reporter or reporter_of(verbose=False))
    categories = options.output.colored(checkpoint.categories)
    keep = options.output.selection(categories)
    process = Process.single(options.device)
    with explained_out_of_memory():
        predictor = predictor_of(checkpoint, process, options.precision, options.inference)
    absolute = replace(options, checkpoint=options.checkpoint.absolute())
    return Model(predictor, keep, categories, absolute, shown_name(options.checkpoint))


def _next_batch(images: Iterator[NamedImage | DataError], size: int) -> tuple[list[NamedImage], DataError | None]:
    """Return the next `size` images, or those before the first error and this error."""
    batch: list[NamedImage] = []
    for image in islice(images, size):
        if isinstance(image, DataError):
            return batch, image
        batch.append(image)
    return batch, None
