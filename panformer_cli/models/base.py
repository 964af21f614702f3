"""The contract of a model family: everything that the engine knows about a model.

A family is a folder of `models/` with a `PanopticModel`, its settings, and an entry in `families.FAMILIES`. The engine
trains, evaluates, tunes, predicts and benchmarks it through the methods here, and knows no family by name.

Letters for shapes: B images, H x W pixels, N segments of an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import Batch, PanopticMap, Targets
from panformer_cli.metrics.detection import InstancePrediction
from panformer_cli.metrics.image_overlap import ImageOverlap
from panformer_cli.models.backbones.backbone import Backbone
from panformer_cli.models.layers.batch_norm_folding import fold_batch_norms
from panformer_cli.settings import TrainSettings


@dataclass(frozen=True)
class LossCounts:
    """Segments to learn: the mean over all images of an optimizer step, in all processes. Not clamped.

    Losses are normalized by these, so that several batches and processes give the gradient of one large batch.

    Attributes:
        things: objects per image.
        stuff: stuff classes that are present, per image.
    """

    things: float
    stuff: float


def count_segments(targets: Sequence[Targets], num_things: int) -> tuple[int, int]:
    """Return how many objects and how many stuff classes these images have: (things, stuff), sums over the images."""
    labels = [target.labels for target in targets]
    things = sum(int((image < num_things).sum()) for image in labels)
    stuff = sum(image[image >= num_things].unique().numel() for image in labels)
    return things, stuff


class ParameterGroup(NamedTuple):
    """Parameters that share a learning rate: `train.lr` times `lr_factor`."""

    parameters: list[nn.Parameter]
    lr_factor: float


class TuningCache(Protocol):
    """One image prepared for `evaluate tune`: postprocessing at other settings needs no mask again."""

    def overlap(self, settings: Any, categories: CategoryTable) -> ImageOverlap:
        """Return what postprocessing at `settings` gives, compared with the ground truth; boxes may be left at 0."""

    def save(self, path: Path) -> None:
        """Write a file that the family's `load_tuning_cache` reads, atomically."""


class Prediction(ABC):
    """What a model sees in one image. Computed when it is first asked for, so that another thread may do it."""

    @property
    @abstractmethod
    def panoptic(self) -> PanopticMap:
        """The panoptic map at the image's own size, with its segments and their scores."""

    @abstractmethod
    def instances(self, image_id: int | str) -> InstancePrediction:
        """The things as instances that may overlap, for box and mask AP."""


class PanopticModel(nn.Module, ABC):
    """A network with its losses and its postprocessing.

    Attributes:
        categories: of the data set; a label is a position in this table.
        backbone: the part that ImageNet weights are for.
    """

    backbone: Backbone

    def __init__(self, categories: CategoryTable) -> None:
        super().__init__()
        self.categories = categories

    @abstractmethod
    def infer(self, images: Tensor, padding_mask: Tensor) -> tuple[Any, ...]:
        """Run the network: tensors in, a (named) tuple of tensors out, so that it can be exported.

        Sizes must not decide which operations run: no `int()`, `bool()` or `len()` of a tensor that depends on them.

        Args:
            images: (B, 3, H, W) float, normalized, each in the top-left corner of the canvas.
            padding_mask: (B, H, W) bool, True on the padding.
        """

    @abstractmethod
    def forward(self, batch: Batch, counts: LossCounts) -> dict[str, Tensor]:
        """Return weighted losses by name, `<term>` or `<term>/<layer>`; their sum is minimized.

        Each is averaged over the images of the batch. Under autocast the family decides what stays in float32.
        It is `forward` because `DistributedDataParallel` synchronizes only what happens there; inference is `infer`.
        """

    @abstractmethod
    def postprocess(self, output: Any, index: int, size: tuple[int, int], settings: Any) -> Prediction:
        """Return the prediction for image `index` of a batch of images of one size, without padding.

        Args:
            output: of `infer`.
            index: position in the batch.
            size: height and width of the original image, to which masks and boxes are brought.
            settings: the family's inference settings.
        """

    @abstractmethod
    def parameter_groups(self, settings: TrainSettings) -> list[ParameterGroup]:
        """Return all trainable parameters, in groups of one learning rate each."""

    @abstractmethod
    def class_rows(self) -> dict[str, range]:
        """Return the tensors with one row per class, by name, with the labels that their rows belong to.

        Fine-tuning copies these rows by category name; rows beyond the range belong to no class.
        """

    @abstractmethod
    def stages(self) -> dict[str, nn.Module]:
        """Return the parts that `benchmark` times, by name, in the order they run."""

    def spread_scores(self, image: Tensor, settings: Any) -> None:
        """Rescale freshly initialized output layers until about as many segments are found as in a photograph.

        `benchmark` uses it where it has no trained weights: an untrained model finds nothing, and postprocessing would
        cost nothing. By default nothing changes.

        Args:
            image: (1, 3, H, W) normalized.
            settings: the family's inference settings.
        """

    def inference_module(self) -> InferenceModule:
        """Return this model as a module whose `forward` is `infer`, for `torch.export`; weights are shared."""
        return InferenceModule(self)

    def optimize_for_inference(self) -> None:
        """Change the model in place into an equal one with fewer, faster operations; it cannot be trained afterwards.

        Every BatchNorm is folded into the convolution before it, and convolutional backbones keep their channels last
        in memory, as CPUs and GPUs compute them fastest. Outputs stay the same to the rounding of float32.
        """
        self.eval().requires_grad_(False)
        if fold_batch_norms(self.backbone):
            self.backbone.to(memory_format=torch.channels_last)


class InferenceModule(nn.Module):
    """The forward pass of tensors only, which exporters trace.

    `torch.export` can leave batch, height and width of the images dynamic. Build the model with `sampling="portable"`
    or `"gather"`, and put it into evaluation mode first. Images must be larger than the largest stride (65 pixels for
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
    """Return the trainable parameters in two groups: with one of `slow` in their name, they learn at the factor."""
    fast_group, slow_group = ParameterGroup([], 1.0), ParameterGroup([], slow_lr_factor)
    for name, parameter in named:
        if parameter.requires_grad:
            group = slow_group if any(part in name for part in slow) else fast_group
            group.parameters.append(parameter)
    return [fast_group, slow_group]
