"""A network of transformers as a model of panformer."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import ImageArray
from panformer_cli.models.base import InferenceOnlyModel
from panformer_cli.models.hugging_face.architectures import ARCHITECTURES
from panformer_cli.models.hugging_face.input_image import canvas_size, padded, resize, resized_size
from panformer_cli.models.hugging_face.labels import groups
from panformer_cli.models.hugging_face.prediction import QueryPrediction, Rules
from panformer_cli.models.hugging_face.query_masks import QueryMasks
from panformer_cli.models.hugging_face.settings import HuggingFaceSettings, QueryMergingSettings
from panformer_cli.settings import DataSettings

TASK_IDS = {
    "panoptic": (49406, 518, 10549, 533, 1072, 24755, 49407),
    "instance": (49406, 518, 10549, 533, 34572, 49407),
}
"""CLIP's token ids of "the task is panoptic" and "the task is instance", for OneFormer."""


class NetworkOutput(NamedTuple):
    """Output of `infer`.

    Attributes:
        class_logits: (B, Q, C + 1) float32; the last class is "no object".
        mask_logits: (B, Q, h, w) float32, of the padded input.
        boxes: (B, Q, 4) float32 cx, cy, w, h in 0..1 of the image; (B, Q, 0) if the network predicts none.
        resized: (B, 2) int64 height and width of the images without padding.
        canvas: (2,) int64 height and width of the padded input.
    """

    class_logits: Tensor
    mask_logits: Tensor
    boxes: Tensor
    resized: Tensor
    canvas: Tensor


class HuggingFaceModel(InferenceOnlyModel):
    """A network of transformers with the input and the merging of its original project. `loading` constructs it.

    Args:
        network: an instance of the class of the architecture.
        settings: the model's settings.
        category_ids: category id of each label of the network, or `NO_CATEGORY`.
        categories: category table of the results.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: HuggingFaceSettings,
        category_ids: tuple[int, ...],
        categories: CategoryTable,
    ) -> None:
        super().__init__(categories)
        self.network = network
        self.settings = settings
        self.architecture = ARCHITECTURES[settings.architecture]
        of_label = groups(category_ids, settings.stuff_labels, categories)
        self.rules = Rules(self.architecture, category_ids, of_label, categories)

    @property
    def square(self) -> int:
        """Side of a square input in pixels; 0 for architectures with other inputs."""
        return int(self.config.image_size) if self.architecture.rounding == "square" else 0

    @property
    def config(self) -> Any:
        """The config of the network."""
        return self.network.config

    def input_size(self, size: tuple[int, int], data: DataSettings) -> tuple[int, int]:
        """Return the size of the resized image; see `PanopticModel.input_size`. A square input is never exceeded."""
        long_side = min(data.long_side, self.square) if self.square else data.long_side
        return resized_size(size, self.architecture, data.short_side, long_side)

    def prepare_image(self, image: ImageArray, data: DataSettings) -> Tensor:
        """Return the padded input; see `PanopticModel.prepare_image`."""
        size = self.input_size((image.shape[0], image.shape[1]), data)
        canvas = canvas_size(size, self.architecture, self.square)
        mean, std = self.settings.image_mean, self.settings.image_std
        return padded(resize(image, size), self.architecture, canvas, mean, std)

    def infer(self, images: Tensor, padding_mask: Tensor) -> NetworkOutput:
        """Return the logits of all queries; see `PanopticModel.infer`. The network does not get the padding mask."""
        found = self.network(pixel_values=images, **self._task_inputs(images))
        class_name, mask_name = self.architecture.outputs
        class_logits, mask_logits = getattr(found, class_name).float(), getattr(found, mask_name).float()
        boxes = getattr(found, "pred_boxes", None)
        boxes = class_logits[:, :, :0] if boxes is None else boxes.float()
        inside = ~padding_mask
        resized = torch.stack([inside.any(2).sum(1), inside.any(1).sum(1)], dim=1)
        canvas = torch.tensor(images.shape[-2:], device=images.device)
        return NetworkOutput(class_logits, mask_logits, boxes, resized, canvas)

    def _task_inputs(self, images: Tensor) -> dict[str, Tensor]:
        """Return the further inputs of the network: OneFormer's task."""
        if self.settings.architecture != "oneformer":
            return {}
        ids = torch.zeros(len(images), int(self.config.task_seq_len), dtype=torch.int64, device=images.device)
        task = TASK_IDS[self.settings.task]
        ids[:, : len(task)] = torch.tensor(task, device=images.device)
        return {"task_inputs": ids}

    def postprocess(
        self, output: NetworkOutput, index: int, size: tuple[int, int], settings: QueryMergingSettings
    ) -> QueryPrediction:
        """Return the masks of an image for merging, on the CPU; see `PanopticModel.postprocess`."""
        boxes = output.boxes[index].cpu()
        canvas, resized = output.canvas.tolist(), output.resized[index].tolist()
        masks = QueryMasks(
            class_logits=output.class_logits[index].cpu(),
            mask_logits=output.mask_logits[index].cpu(),
            canvas=(canvas[0], canvas[1]),
            resized=(resized[0], resized[1]),
            size=size,
            boxes=boxes if boxes.shape[-1] else None,
        )
        return QueryPrediction(masks, self.rules, settings)

    def stages(self) -> dict[str, nn.Module]:
        """Return the main modules of the network; see `PanopticModel.stages`."""
        if not self.architecture.stages:
            return {"transformer": self.network}
        return {name: self.network.get_submodule(path) for name, path in self.architecture.stages.items()}

    def spread_scores(self, image: Tensor, settings: QueryMergingSettings) -> None:
        """Rescale the class head; see `PanopticModel.spread_scores`."""
        from panformer_cli.models.hugging_face.random_weights import spread_scores  # imports this module

        spread_scores(self, image, settings)

    def parts(self) -> dict[str, list[nn.Module]]:
        """Return nothing: the parts matter in training only."""
        return {}

    def optimize_for_inference(self) -> None:
        """Freeze the weights. The network computes what it does in transformers."""
        self.eval().requires_grad_(False)
