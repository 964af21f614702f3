"""What the network of Panoptic SegFormer gives: in training every layer's output, at inference what merging needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from panformer_cli.models.panoptic_segformer.location_decoder import LocationOutput
from panformer_cli.models.panoptic_segformer.mask_decoder import MaskOutput


@dataclass
class TrainingOutput:
    """Everything that the losses need.

    Attributes:
        location: boxes and classes of all thing queries, after each layer.
        selected: (n,) int64 indices of the queries with a mask, one tensor per image.
        things: masks of the selected queries, in their order; images with fewer than the most are padded at the end.
        stuff: masks of the stuff queries, in the order of the stuff labels.
        stuff_logits: (blocks, B, stuff), before the sigmoid, after each stuff block.
        canvas: height and width of the padded images, pixels; the masks cover all of it.
    """

    location: LocationOutput
    selected: list[Tensor]
    things: MaskOutput
    stuff: MaskOutput
    stuff_logits: Tensor
    canvas: tuple[int, int]


class InferenceOutput(NamedTuple):
    """Scored masks of a batch: the k best (query, class) pairs, then every stuff class.

    Attributes:
        labels: (B, k) int64 thing labels.
        scores: (B, k) class scores of the things, 0..1, descending.
        boxes: (B, k, 4) cx, cy, w, h in 0..1 of the image without padding.
        masks: (B, k, h, w) at stride 8, 0 or more, 0.5 is the threshold.
        stuff_scores: (B, stuff) class scores, 0..1.
        stuff_masks: (B, stuff, h, w), as `masks`.
    """

    labels: Tensor
    scores: Tensor
    boxes: Tensor
    masks: Tensor
    stuff_scores: Tensor
    stuff_masks: Tensor
