"""Run a trained model on images; shared by evaluate, predict and the evaluation during training.

Padding changes what the model computes (docs/model.md, "Input"). So all images of a batch have the same size after
resizing, and each one gets the same result as in a batch of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.checkpoints.checkpoint import Checkpoint, load_model
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.precision import Precision, PrecisionChoice, autocast, resolve_precision
from panformer_cli.engine.prefetch import ahead, behind
from panformer_cli.models.base import PanopticModel, Prediction
from panformer_cli.recipe import Recipe

_LOG = logging.getLogger(__name__)

Key = TypeVar("Key")
Result = TypeVar("Result")

WAITING_BATCHES = 8
"""Maximum number of images that `Predictor.stream` holds, in batches. A smaller limit runs more incomplete batches."""


class Predictor:
    """Run a model on images of any size.

    Attributes:
        model: The model, on `device`. It must be in evaluation mode when the predictor is called.
        recipe: Its recipe.
        device: Where it runs.
        precision: Precision of its matrix products and convolutions.
    """

    def __init__(
        self, model: PanopticModel, recipe: Recipe, device: torch.device, precision: Precision = "fp32"
    ) -> None:
        self.model = model.to(device)
        self.recipe = recipe
        self.device = device
        self.precision = precision

    @property
    def categories(self) -> CategoryTable:
        return self.model.categories

    @classmethod
    def of(cls, checkpoint: Checkpoint, process: Process, choice: PrecisionChoice = "fp32") -> Predictor:
        """Return a predictor with a checkpoint's model, optimized for inference, on the device of `process`.

        Raises:
            PanformerError: The weights do not fit, or the device does not support the precision.
        """
        precision = resolve_precision(choice, process)
        began = time.perf_counter()
        model = load_model(checkpoint, process.sampling)
        model.optimize_for_inference()
        _LOG.debug("Model %s loaded in %.2f s, %s", checkpoint.path, time.perf_counter() - began, precision)
        return cls(model, checkpoint.recipe, process.device, precision)

    def __call__(self, image: ImageArray) -> Prediction:
        """Return the prediction for an image, (H, W, 3) uint8 RGB."""
        return next(self._predictions([image]))

    def at_input_size(self, image: ImageArray) -> Prediction:
        """Return the prediction for an image with a map of the size of the network's input, which takes less memory.

        Args:
            image: (H, W, 3) uint8 RGB.
        """
        return next(self._predictions([image], self.input_size(image.shape[:2])))

    def predict_all(self, images: Sequence[ImageArray]) -> list[Prediction]:
        """Return the predictions in the order of `images`; images with the same input size form a batch.

        Args:
            images: Each (H, W, 3) uint8 RGB, of any size.
        """
        found = dict(self.stream(enumerate(images), batch_size=len(images)))
        return [found[number] for number in range(len(images))]

    def stream(self, images: Iterable[tuple[Key, ImageArray]], batch_size: int = 1) -> Iterator[tuple[Key, Prediction]]:
        """Yield (key, prediction) pairs; with a `batch_size` above 1 their order can differ from that of the images.

        An image waits until there are `batch_size` images of its input size. At most `WAITING_BATCHES * batch_size`
        images are held, including the running batch. At this limit, the size that has waited longest runs as an
        incomplete batch. For batches of 8 the limit is 64 images, 60 MB for COCO. The next image is read only after
        all available results have been consumed.

        Args:
            images: (key, image) pairs; an image is (H, W, 3) uint8 RGB. The key is returned with the prediction.
            batch_size: Images per forward pass, 1 or more.
        """
        waiting: dict[tuple[int, ...], list[tuple[Key, ImageArray]]] = {}  # by input size, oldest first
        for key, image in images:
            size = self._batch_key(image)
            waiting.setdefault(size, []).append((key, image))
            if len(waiting[size]) == batch_size:
                yield from self._run(waiting.pop(size))
            elif sum(map(len, waiting.values())) >= WAITING_BATCHES * batch_size:
                yield from self._run(waiting.pop(next(iter(waiting))))
        for batch in waiting.values():
            yield from self._run(batch)

    def map(
        self,
        images: Iterable[tuple[Key, ImageArray]],
        finish: Callable[[Key, Prediction], Result],
        batch_size: int = 1,
    ) -> Iterator[Result]:
        """Yield `finish(key, prediction)` for every image, in the order of `stream`.

        If the model is on a GPU, threads read the next images and run `finish` meanwhile. A model on the CPU uses all
        cores itself, so everything runs sequentially (docs/performance.md has the times).

        Args:
            images: As for `stream`.
            finish: Function of a key and its prediction. If it raises, the exception is raised instead of the result.
            batch_size: As for `stream`.
        """
        if self.device.type == "cpu":
            for key, prediction in self.stream(images, batch_size):
                yield finish(key, prediction)
        else:
            yield from behind(self.stream(ahead(images), batch_size), lambda found: finish(*found))

    def _run(self, batch: list[tuple[Key, ImageArray]]) -> Iterator[tuple[Key, Prediction]]:
        predictions = self._predictions([image for _, image in batch])
        return zip([key for key, _ in batch], predictions, strict=True)

    def input_size(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Return the height and width to which the model resizes an image of this height and width."""
        height, width = size
        return self.model.input_size((height, width), self.recipe.data)

    def described(self, size: tuple[int, int]) -> dict[str, Any]:
        """Return how an image of this height and width is run, for the JSON of results; {} if it is run once, whole."""
        del size
        return {}

    def notes(self) -> list[str]:
        """Return what a user should know about how images are run, one sentence each; none if whole and once."""
        return []

    def _batch_key(self, image: ImageArray) -> tuple[int, ...]:
        """Return what the images of a batch must have in common."""
        return self.input_size(image.shape[:2])

    def _predictions(self, images: Sequence[ImageArray], size: tuple[int, int] | None = None) -> Iterator[Prediction]:
        """Yield predictions one at a time: masks are upsampled from stride 8 to full size for only one image at a time.

        images: 1 or more, with the same input size.
        size: Height and width of the maps; None for those of each image.
        """
        output = self.infer(*self.prepare(images))
        for number, image in enumerate(images):
            yield self.postprocess(output, number, size or (image.shape[0], image.shape[1]))

    def prepare(self, images: Sequence[ImageArray]) -> tuple[Tensor, Tensor]:
        """Return the arguments of `infer` on the device: (B, 3, H, W) float, and (B, H, W) bool, True on padding.

        Args:
            images: 1 or more, each (height, width, 3) uint8 RGB, with the same size after resizing.
        """
        prepared = [self.model.prepare_image(image, self.recipe.data) for image in images]
        batch = torch.stack(prepared).to(self.device, memory_format=torch.channels_last)
        height, width = self.input_size(images[0].shape[:2])
        padding_mask = torch.ones(len(batch), *batch.shape[-2:], dtype=torch.bool, device=self.device)
        padding_mask[:, :height, :width] = False
        return batch, padding_mask

    @torch.inference_mode()
    def infer(self, images: Tensor, padding_mask: Tensor) -> Any:
        """Return the family's raw output; see `PanopticModel.infer`."""
        with autocast(self.precision, self.device):
            return self.model.infer(images, padding_mask)

    @torch.inference_mode()
    def postprocess(self, output: Any, number: int, size: tuple[int, int]) -> Prediction:
        """Return the prediction for one image of the batch; see `PanopticModel.postprocess`."""
        return self.model.postprocess(output, number, size, self.recipe.inference)
