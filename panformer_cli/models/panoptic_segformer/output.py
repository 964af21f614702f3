"""Outputs of the network: every layer's output in training, and the input of merging at inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from panformer_cli.models.panoptic_segformer.location_decoder import LocationOutput
from panformer_cli.models.panoptic_segformer.mask_decoder import MaskOutput


@dataclass
class TrainingOutput:
    """The network's output in training, for the losses.

    Attributes:
        location: boxes and classes of all thing queries, after each layer.
        selected: (n,) int64 indices of the queries with a mask, one tensor per image.
        things: masks of the selected queries, in their order, padded at the end to the same number in all images.
        stuff: masks of the stuff queries, in the order of the stuff labels.
        stuff_logits: (blocks, B, stuff), before the sigmoid, after each stuff block.
        canvas: height and width of the padded images, in pixels. The masks cover all of it.
    """

    location: LocationOutput
    selected: list[Tensor]
    things: MaskOutput
    stuff: MaskOutput
    stuff_logits: Tensor
    canvas: tuple[int, int]


class InferenceOutput(NamedTuple):
    """The network's output at inference: scored masks of the k best (query, class) pairs and of all stuff classes.

    Attributes:
        labels: (B, k) int64 thing labels.
        scores: (B, k) class scores of the things, 0..1, descending.
        boxes: (B, k, 4) cx, cy, w, h in 0..1 of the image without padding.
        masks: (B, k, h, w) at stride 8, 0 or more; the threshold is 0.5.
        stuff_scores: (B, stuff) class scores, 0..1.
        stuff_masks: (B, stuff, h, w), like `masks`.
    """

    labels: Tensor
    scores: Tensor
    boxes: Tensor
    masks: Tensor
    stuff_scores: Tensor
    stuff_masks: Tensor
