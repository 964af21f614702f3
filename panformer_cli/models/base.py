"""The interface of a model family: everything that the engine knows about a model.

A family is a folder in `models/` with a `PanopticModel`, its settings, and an entry in `families.FAMILIES`. The engine
trains, evaluates, tunes, predicts and benchmarks it only through this interface.

Letters in shapes: B images, H x W pixels, N segments of an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import Batch, ImageArray, PanopticMap, Targets
from panformer_cli.data.transforms import prepare_image, resized_size
from panformer_cli.errors import PanformerError, RecipeError
from panformer_cli.metrics.detection import InstancePrediction
from panformer_cli.metrics.image_overlap import ImageOverlap
from panformer_cli.models.backbones.backbone import Backbone
from panformer_cli.models.layers.batch_norm_folding import fold_batch_norms
from panformer_cli.settings import DataSettings, TrainSettings
from panformer_cli.wording import listing

Model = TypeVar("Model", bound="PanopticModel")


@dataclass(frozen=True)
class LossCounts:
    """Mean numbers of target segments per image, over all images of an optimizer step in all processes. Not clamped.

    Losses are normalized by these counts, so that several batches and processes give the gradient of one large batch.

    Attributes:
        things: objects per image.
        stuff: stuff classes per image.
    """

    things: float
    stuff: float


def count_segments(targets: Sequence[Targets], num_things: int) -> tuple[int, int]:
    """Return the numbers of objects and of stuff classes, summed over the images: (things, stuff)."""
    labels = [target.labels for target in targets]
    things = sum(int((image < num_things).sum()) for image in labels)
    stuff = sum(image[image >= num_things].unique().numel() for image in labels)
    return things, stuff


class ParameterGroup(NamedTuple):
    """Parameters that share the learning rate `train.lr` times `lr_factor`."""

    parameters: list[nn.Parameter]
    lr_factor: float


class TuningCache(Protocol):
    """One image, cached so that `evaluate tune` can postprocess it at other settings without its masks."""

    def overlap(self, settings: Any, categories: CategoryTable) -> ImageOverlap:
        """Return the result of postprocessing at `settings` compared with the ground truth. Boxes may be 0."""

    def save(self, path: Path) -> None:
        """Write a file for the family's `load_tuning_cache`, atomically."""


class Prediction(ABC):
    """The prediction for one image. Computed on first access, so that another thread can do it."""

    @property
    @abstractmethod
    def panoptic(self) -> PanopticMap:
        """The panoptic map at the original image size, with its segments and their scores."""

    @abstractmethod
    def instances(self, image_id: int | str) -> InstancePrediction:
        """Return the things as instances, which may overlap, for box AP and mask AP."""


class PanopticModel(nn.Module, ABC):
    """A network with its losses and its postprocessing.

    Attributes:
        categories: category table of the data set. A label is a position in this table.
        backbone: the part that ImageNet weights can initialize.
        predicts_masks: whether `postprocess` returns a `candidates.MaskPrediction`, which tiles and test-time
            augmentation need.
    """

    backbone: Backbone
    predicts_masks: ClassVar[bool] = False

    def __init__(self, categories: CategoryTable) -> None:
        super().__init__()
        self.categories = categories
        self._frozen_parts: list[nn.Module] = []

    def input_size(self, size: tuple[int, int], data: DataSettings) -> tuple[int, int]:
        """Return the height and width to which an image is resized at inference, without padding.

        Only images with the same input size form a batch. By default the sides are limited by those of `data`.

        Args:
            size: height and width of the image.
            data: the recipe's section `data`.
        """
        return resized_size(*size, data.short_side, data.long_side)

    def prepare_image(self, image: ImageArray, data: DataSettings) -> Tensor:
        """Return the network's input for an image at inference, (3, H', W') float32.

        The image has its `input_size`, in the top-left corner; `infer` gets everything outside it as padding. By
        default the image is resized and normalized, and there is no padding.

        Args:
            image: (H, W, 3) uint8 RGB.
            data: the recipe's section `data`.
        """
        return prepare_image(image, data.short_side, data.long_side)

    @abstractmethod
    def infer(self, images: Tensor, padding_mask: Tensor) -> tuple[Any, ...]:
        """Run the network and return a (named) tuple of tensors, so that it can be exported.

        Control flow must not depend on sizes: no `int()`, `bool()` or `len()` of a tensor that depends on them.

        Args:
            images: (B, 3, H, W) float, normalized, each in the top-left corner of the canvas.
            padding_mask: (B, H, W) bool, True on the padding.
        """

    @abstractmethod
    def forward(self, batch: Batch, counts: LossCounts) -> dict[str, Tensor]:
        """Return the weighted losses by name, `<term>` or `<term>/<layer>`. Training minimizes their sum.

        Each loss is averaged over the images of the batch. Under autocast the family decides what stays in float32.
        Training is `forward` because `DistributedDataParallel` synchronizes only this method. Inference is `infer`.
        """

    def forward_before_targets(self, images: Tensor, padding_mask: Tensor) -> Any:
        """Run the first part of `forward`, which does not depend on targets, and return its output.

        By this, the memory that training needs at least is estimated on the meta device (`engine/training/memory`). By
        default it is the backbone alone.

        Args:
            images: as for `infer`.
            padding_mask: as for `infer`.
        """
        del padding_mask
        return self.backbone(images)

    @abstractmethod
    def postprocess(self, output: Any, index: int, size: tuple[int, int], settings: Any) -> Prediction:
        """Return the prediction for one image of a batch of images with the same `input_size`.

        Args:
            output: output of `infer`.
            index: position of the image in the batch.
            size: height and width of the original image, to which masks and boxes are scaled.
            settings: the family's inference settings.
        """

    @abstractmethod
    def parameter_groups(self, settings: TrainSettings) -> list[ParameterGroup]:
        """Return all trainable parameters, grouped by learning rate."""

    @abstractmethod
    def class_rows(self) -> dict[str, range]:
        """Return the names of the tensors with one row per class, and the labels of their rows.

        Fine-tuning copies these rows by category name. Rows beyond the range belong to no class.
        """

    @abstractmethod
    def stages(self) -> dict[str, nn.Module]:
        """Return the modules that `benchmark` times, by name, in the order in which they run."""

    def freeze(self, names: Sequence[str]) -> None:
        """Freeze the weights and running statistics of parts of the model; training mode does not change this.

        Frozen parts behave as in inference: they also have no dropout. Call this before the optimizer is built.

        Args:
            names: `stages()` and modules at the top level.

        Raises:
            RecipeError: A part is unknown, or no weight is left to train.
        """
        known = {name: part for name, part in self.named_children() if any(True for _ in part.parameters())}
        known |= self.stages()
        unknown = [name for name in names if name not in known]
        if unknown:
            raise RecipeError(f"train.freeze has {listing(unknown)}: expected parts of the model: {', '.join(known)}")
        for name in names:
            known[name].requires_grad_(False)
            self._frozen_parts.append(known[name])
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise RecipeError(f"train.freeze is {list(names)}: no weight is left to train; leave out a part")

    def train(self: Model, mode: bool = True) -> Model:
        """Set training mode, except for the parts that `freeze` has frozen."""
        super().train(mode)
        for part in self._frozen_parts:
            part.eval()
        return self

    def parts(self) -> dict[str, list[nn.Module]]:
        """Return the parts that `train.checkpoint` and `train.compile` can name, each as the modules that it runs.

        These modules do not contain each other. The names are those of the family's `ModelSettings.parts`.
        """
        return {"backbone": self.backbone.blocks()}

    def spread_scores(self, image: Tensor, settings: Any) -> None:
        """Rescale randomly initialized output layers so that about as many segments are found as in a photo.

        `benchmark` uses this without trained weights: an untrained model finds nothing, so postprocessing would take no
        time. By default nothing changes.

        Args:
            image: (1, 3, H, W) normalized.
            settings: the family's inference settings.
        """

    def use_mask_layers(self, layers: int) -> None:
        """Predict masks with the first layers of the mask decoders only, in place. Inference gets faster.

        Args:
            layers: 1 or more; decoders with fewer layers stay whole.

        Raises:
            PanformerError: No decoder has so many layers, or the layers of the family have no masks of their own,
                which is the default.
        """
        raise PanformerError(
            f"--mask-layers is {layers}, but the layers of this model family have no masks of their own; leave the "
            "option out"
        )

    def inference_module(self) -> InferenceModule:
        """Return a module for `torch.export` whose `forward` is `infer`. It shares the weights."""
        return InferenceModule(self)

    def optimize_for_inference(self) -> None:
        """Replace operations in place by fewer, faster ones. The model cannot be trained afterwards.

        Every BatchNorm is folded into the convolution before it, and convolutional backbones use the channels-last
        memory format, which is fastest on CPUs and GPUs. Outputs stay the same up to float32 rounding.
        """
        self.eval().requires_grad_(False)
        if fold_batch_norms(self.backbone):
            self.backbone.to(memory_format=torch.channels_last)


class InferenceOnlyModel(PanopticModel):
    """A model of a family that cannot be trained (`Family.trainable` is False)."""

    def forward(self, batch: Batch, counts: LossCounts) -> dict[str, Tensor]:
        """Raise PanformerError; see `PanopticModel.forward`."""
        del batch, counts
        raise PanformerError(INFERENCE_ONLY)

    def parameter_groups(self, settings: TrainSettings) -> list[ParameterGroup]:
        """Raise PanformerError; see `PanopticModel.parameter_groups`."""
        del settings
        raise PanformerError(INFERENCE_ONLY)

    def class_rows(self) -> dict[str, range]:
        """Raise PanformerError; see `PanopticModel.class_rows`."""
        raise PanformerError(INFERENCE_ONLY)


INFERENCE_ONLY = "models of this family are inference only: they have no losses; train a model of another family"


class InferenceModule(nn.Module):
    """A module whose forward pass takes and returns only tensors, for exporters to trace.

    `torch.export` can keep the batch size, height and width dynamic. Build the model with `sampling="portable"` or
    `"gather"`, and call `eval()` before exporting. Images must be larger than the largest stride (65 pixels for
    Panoptic SegFormer), because `torch.export` treats a feature map with one row or column as a special case.
    """

    def __init__(self, model: PanopticModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, padding_mask: Tensor) -> tuple[Tensor, ...]:
        """Return the output of `PanopticModel.infer` as a plain tuple."""
        return tuple(self.model.infer(images, padding_mask))


def split_parameters(
    named: Iterable[tuple[str, nn.Parameter]], slow: Sequence[str], slow_lr_factor: float
) -> list[ParameterGroup]:
    """Return the trainable parameters in two groups: those with one of `slow` in their name get `slow_lr_factor`."""
    fast_group, slow_group = ParameterGroup([], 1.0), ParameterGroup([], slow_lr_factor)
    for name, parameter in named:
        if parameter.requires_grad:
            group = slow_group if any(part in name for part in slow) else fast_group
            group.parameters.append(parameter)
    return [fast_group, slow_group]
