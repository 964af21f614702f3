"""Which query answers for which object: bipartite matching (paper, section 3.5; spec, section 8)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from panformer_cli.data.structures import Targets
from panformer_cli.errors import PanformerError
from panformer_cli.models.layers.boxes import cxcywh_to_xyxy, generalised_iou, xyxy_to_cxcywh
from panformer_cli.models.layers.losses import ALPHA, GAMMA

COST_EPS = 1e-12
DICE_COST_EPS = 1e-3
CLASS_COST, L1_COST, GIOU_COST = 2.0, 5.0, 2.0
MASK_CLASS_COST, DICE_COST = 4.0, 2.0
"""The second matching weighs the class twice as much and adds the mask."""


@dataclass
class Match:
    """The matching of one image, layer by layer.

    queries: (layers, n) int64, ascending in every layer; n = min(things, Q).
    objects: (layers, n) int64, the matched position among the image's things.
    """

    queries: Tensor
    objects: Tensor


@dataclass
class Things:
    """The thing part of an image's targets, as the matcher needs it.

    labels: (n,) int64. boxes: (n, 4) x1, y1, x2, y2 pixels. size: (4,) width, height, width, height in pixels.
    masks: (n, H, W) bool.
    """

    labels: Tensor
    boxes: Tensor
    size: Tensor
    masks: Tensor

    @classmethod
    def of(cls, targets: Targets, num_things: int) -> Things:
        places = [place for place, label in enumerate(targets.labels.tolist()) if label < num_things]
        chosen = without_waiting(torch.tensor(places, dtype=torch.int64), targets.labels.device)
        height, width = targets.masks.shape[-2:]
        size = torch.tensor([width, height, width, height], dtype=torch.float32)
        return cls(
            targets.labels[chosen],
            targets.boxes[chosen],
            without_waiting(size, targets.boxes.device),
            targets.masks[chosen],
        )

    @property
    def normalised_boxes(self) -> Tensor:
        """(n, 4) cx, cy, w, h in 0..1 of the image without padding."""
        return xyxy_to_cxcywh(self.boxes / self.size)


@dataclass
class ImageTargets:
    """The ground truth of one image, as the losses need it.

    Attributes:
        labels: of all segments, on the CPU; they leave the device when this is made, before the forward pass.
        masks: (N, H, W) bool, of all segments.
        things: the objects among them.
    """

    labels: list[int]
    masks: Tensor
    things: Things

    @classmethod
    def of(cls, targets: Targets, num_things: int) -> ImageTargets:
        return cls(targets.labels.tolist(), targets.masks, Things.of(targets, num_things))


@torch.no_grad()
def match_locations(class_logits: Tensor, boxes: Tensor, things: list[Things]) -> list[Match]:
    """Match queries and things at every location layer, image by image.

    class_logits: (layers, B, Q, num_things). boxes: (layers, B, Q, 4), cx, cy, w, h in 0..1.
    """
    images = zip(class_logits.float().unbind(1), boxes.float().unbind(1), things, strict=True)
    return _assign([location_cost(*image, CLASS_COST) for image in images])


@torch.no_grad()
def match_masks(class_logits: Tensor, boxes: Tensor, masks: Tensor, things: Things, target_masks: Tensor) -> Match:
    """The second matching, among the queries that were given a mask: it decides the mask targets.

    class_logits: (n, num_things), boxes: (n, 4), masks: (n, h, w) of the matched queries, last layer and tail.
    target_masks: (things, h, w), 0..1. The `Match` has one layer, and its queries count within the n.
    """
    cost = location_cost(class_logits.float(), boxes.float(), things, MASK_CLASS_COST)
    cost = cost + DICE_COST * _dice_cost(masks.float(), target_masks)
    return _assign([cost[None]])[0]


def location_cost(class_logits: Tensor, boxes: Tensor, things: Things, class_weight: float) -> Tensor:
    """(..., Q, n): weighted focal, L1 and GIoU cost of giving query q the object n."""
    probability = class_logits.sigmoid()
    positive = -(probability + COST_EPS).log() * ALPHA * (1 - probability) ** GAMMA
    negative = -(1 - probability + COST_EPS).log() * (1 - ALPHA) * probability**GAMMA
    class_cost = (positive - negative)[..., things.labels]
    distance = (boxes[..., :, None, :] - things.normalised_boxes).abs().sum(-1)
    overlap = generalised_iou(cxcywh_to_xyxy(boxes)[..., :, None, :] * things.size, things.boxes)
    return class_weight * class_cost + L1_COST * distance - GIOU_COST * overlap


def _dice_cost(masks: Tensor, targets: Tensor) -> Tensor:
    """(n, h, w) and (m, h, w) to (n, m)."""
    masks, targets = masks.flatten(1), targets.flatten(1)
    squares = (masks.square().sum(1) + DICE_COST_EPS)[:, None] + targets.square().sum(1) + DICE_COST_EPS
    return 1 - 2 * (masks @ targets.T) / squares


def _assign(costs: list[Tensor]) -> list[Match]:
    """(layers, Q, n) costs of each image to the cheapest matching of each layer.

    All of them leave the device together: a GPU is waited for once, not once an image. The matchings themselves, some
    30 microseconds each, take longer in threads than one after the other.
    """
    together = torch.cat([cost.flatten() for cost in costs]).cpu().numpy()
    if not np.isfinite(together).all():
        raise PanformerError(
            "training diverged: the matching costs are no longer finite; resume from an earlier checkpoint with a "
            "smaller learning rate (--set train.lr=...)"
        )
    parts = np.split(together, np.cumsum([cost.numel() for cost in costs])[:-1])
    return [_cheapest(part.reshape(cost.shape), cost.device) for part, cost in zip(parts, costs, strict=True)]


def _cheapest(cost: npt.NDArray[np.float32], device: torch.device) -> Match:
    pairs = np.array([linear_sum_assignment(layer) for layer in cost], np.int64)  # (layers, 2, n)
    queries, objects = without_waiting(torch.from_numpy(pairs), device).unbind(1)
    return Match(queries, objects)


def without_waiting(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the CPU on `device`; a GPU takes its copy when it comes to it, and is not waited for."""
    return tensor.to(device, non_blocking=True)
