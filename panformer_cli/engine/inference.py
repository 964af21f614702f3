"""Images through a trained model: what evaluate, predict and training's own evaluation share.

Padding changes what the model computes (docs/model.md, "Input"). So a batch holds only images that have one size after
resizing, without any padding, and each gets the result that it gets alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import ImageArray
from panformer_cli.data.transforms import prepare_image, resized_size
from panformer_cli.engine.checkpoints.checkpoint import Checkpoint, load_model
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.precision import Precision, PrecisionChoice, autocast, resolve_precision
from panformer_cli.engine.prefetch import ahead, behind
from panformer_cli.models.base import PanopticModel, Prediction
from panformer_cli.recipe import Recipe

Key = TypeVar("Key")
Result = TypeVar("Result")

WAITING_BATCHES = 8
"""Images that `Predictor.stream` holds at most, in batches. With less, common sizes run before their batch is full."""


class Predictor:
    """A model on its device, ready for images of any size.

    model: its weights are used as they are; it has to be in evaluation mode when the predictor is called.
    precision: of its matrix products and convolutions.
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
        """Return a predictor with a checkpoint's model in its fastest form, as `process` computes.

        Raises:
            PanformerError: the weights do not fit, or the device does not support the precision.
        """
        precision = resolve_precision(choice, process)
        model = load_model(checkpoint, process.sampling)
        model.optimize_for_inference()
        return cls(model, checkpoint.recipe, process.device, precision)

    def __call__(self, image: ImageArray) -> Prediction:
        """image: (H, W, 3) uint8 RGB."""
        return next(self._predictions([image]))

    def predict_all(self, images: Sequence[ImageArray]) -> list[Prediction]:
        """Predictions in the order of `images`, which may have any sizes; all images of one input size are one batch.

        images: each (H, W, 3) uint8 RGB.
        """
        found = dict(self.stream(enumerate(images), batch_size=len(images)))
        return [found[number] for number in range(len(images))]

    def stream(self, images: Iterable[tuple[Key, ImageArray]], batch_size: int = 1) -> Iterator[tuple[Key, Prediction]]:
        """Predictions one by one, not in the order of the images when `batch_size` is over 1.

        An image waits until `batch_size` of its input size are there. Not more than `WAITING_BATCHES * batch_size`
        images are held, those of the running batch included: when so many are there, the size that waits the longest
        runs with fewer. For batches of 8 these are 64 images, 60 MB of COCO's. The next image is taken only when all
        results that are ready were taken.

        images: (key, image) pairs; an image is (H, W, 3) uint8 RGB. The key comes back with the prediction.
        """
        waiting: dict[tuple[int, int], list[tuple[Key, ImageArray]]] = {}  # by input size, the oldest first
        for key, image in images:
            size = self._input_size(image)
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
        """Yield `finish(key, prediction)` of every image, in the order of `stream`.

        Beside a model on a GPU, threads read the next images and finish results. A model on the CPU needs the cores
        itself, so there one thing happens after the other (docs/performance.md has the times).

        Args:
            images: as for `stream`.
            finish: what to do with a prediction; what it raises is raised in the place of its result.
            batch_size: as for `stream`.
        """
        if self.device.type == "cpu":
            for key, prediction in self.stream(images, batch_size):
                yield finish(key, prediction)
        else:
            yield from behind(self.stream(ahead(images), batch_size), lambda found: finish(*found))

    def _run(self, batch: list[tuple[Key, ImageArray]]) -> Iterator[tuple[Key, Prediction]]:
        predictions = self._predictions([image for _, image in batch])
        return zip([key for key, _ in batch], predictions, strict=True)

    def _input_size(self, image: ImageArray) -> tuple[int, int]:
        """Height and width at which the model sees the image."""
        height, width = image.shape[:2]
        return resized_size(height, width, self.recipe.data.short_side, self.recipe.data.long_side)

    def _predictions(self, images: Sequence[ImageArray]) -> Iterator[Prediction]:
        """One by one: masks leave the model at stride 8, and only one image's are brought to its full size at a time.

        images: of one input size, 1 or more.
        """
        output = self.infer(*self.prepare(images))
        for number, image in enumerate(images):
            yield self.postprocess(output, number, (image.shape[0], image.shape[1]))

    def prepare(self, images: Sequence[ImageArray]) -> tuple[Tensor, Tensor]:
        """Return the arguments of `infer`, on the device: (B, 3, H, W) float and (B, H, W) bool, which is False.

        Args:
            images: each (height, width, 3) uint8 RGB; of one size after resizing, 1 or more.
        """
        data = self.recipe.data
        prepared = [prepare_image(image, data.short_side, data.long_side) for image in images]
        batch = torch.stack(prepared).to(self.device, memory_format=torch.channels_last)
        return batch, torch.zeros(len(batch), *batch.shape[-2:], dtype=torch.bool, device=self.device)

    @torch.inference_mode()
    def infer(self, images: Tensor, padding_mask: Tensor) -> Any:
        """Return the family's raw output; see `PanopticModel.infer`."""
        with autocast(self.precision, self.device):
            return self.model.infer(images, padding_mask)

    @torch.inference_mode()
    def postprocess(self, output: Any, number: int, size: tuple[int, int]) -> Prediction:
        """Return the prediction for one image of the batch; see `PanopticModel.postprocess`."""
        return self.model.postprocess(output, number, size, self.recipe.inference)
