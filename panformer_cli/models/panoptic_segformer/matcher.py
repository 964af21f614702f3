"""Bipartite matching of queries and objects (paper, section 3.5; docs/model.md, "Matching")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from panformer_cli.data.structures import Targets
from panformer_cli.errors import NonFiniteError
from panformer_cli.models.layers.boxes import cxcywh_to_xyxy, generalized_iou, xyxy_to_cxcywh
from panformer_cli.models.layers.losses import ALPHA, GAMMA

COST_EPS = 1e-12
DICE_COST_EPS = 1e-3
CLASS_COST, L1_COST, GIOU_COST = 2.0, 5.0, 2.0
MASK_CLASS_COST, DICE_COST = 4.0, 2.0
"""The second matching doubles the class cost and adds a mask cost."""


@dataclass
class Match:
    """The matching of one image, per layer.

    Attributes:
        queries: (layers, n) int64, ascending in every layer; n = min(things, Q).
        objects: (layers, n) int64, the index of the matched object among the image's things.
    """

    queries: Tensor
    objects: Tensor


@dataclass
class Things:
    """The things among an image's targets, in the form that the matcher needs.

    Attributes:
        labels: (n,) int64.
        boxes: (n, 4) x1, y1, x2, y2 in pixels.
        size: (4,) width, height, width, height in pixels.
        masks: (n, H, W) bool.
    """

    labels: Tensor
    boxes: Tensor
    size: Tensor
    masks: Tensor

    @classmethod
    def of(cls, targets: Targets, num_things: int) -> Things:
        indices = [index for index, label in enumerate(targets.labels.tolist()) if label < num_things]
        chosen = copy_without_sync(torch.tensor(indices, dtype=torch.int64), targets.labels.device)
        height, width = targets.masks.shape[-2:]
        size = torch.tensor([width, height, width, height], dtype=torch.float32)
        return cls(
            targets.labels[chosen],
            targets.boxes[chosen],
            copy_without_sync(size, targets.boxes.device),
            targets.masks[chosen],
        )

    @property
    def normalized_boxes(self) -> Tensor:
        """The boxes as cx, cy, w, h in 0..1 of the image without padding, (n, 4)."""
        return xyxy_to_cxcywh(self.boxes / self.size)


@dataclass
class ImageTargets:
    """The targets of one image, in the form that the losses need.

    Attributes:
        labels: labels of all segments. They are copied from the device before the forward pass.
        masks: (N, H, W) bool masks of all segments.
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
    """Match queries to things at every location layer. Return one `Match` per image.

    Args:
        class_logits: (layers, B, Q, num_things).
        boxes: (layers, B, Q, 4), cx, cy, w, h in 0..1.
        things: targets of each image.
    """
    images = zip(class_logits.float().unbind(1), boxes.float().unbind(1), things, strict=True)
    return _assign([location_cost(*image, CLASS_COST) for image in images])


@torch.no_grad()
def match_masks(class_logits: Tensor, boxes: Tensor, masks: Tensor, things: Things, target_masks: Tensor) -> Match:
    """Match the queries that have a mask a second time, to choose the mask targets.

    Args:
        class_logits: (n, num_things), from the last location layer.
        boxes: (n, 4), from the last location layer.
        masks: (n, h, w), from the tail.
        things: targets of the image.
        target_masks: (things, h, w), 0..1.

    Returns:
        A matching with one layer. Its queries are indices into the n queries.
    """
    cost = location_cost(class_logits.float(), boxes.float(), things, MASK_CLASS_COST)
    cost = cost + DICE_COST * _dice_cost(masks.float(), target_masks)
    return _assign([cost[None]])[0]


def location_cost(class_logits: Tensor, boxes: Tensor, things: Things, class_weight: float) -> Tensor:
    """Return the weighted sum of focal, L1 and GIoU cost of each pair of query and object, (..., Q, n)."""
    probability = class_logits.sigmoid()
    positive = -(probability + COST_EPS).log() * ALPHA * (1 - probability) ** GAMMA
    negative = -(1 - probability + COST_EPS).log() * (1 - ALPHA) * probability**GAMMA
    class_cost = (positive - negative)[..., things.labels]
    distance = (boxes[..., :, None, :] - things.normalized_boxes).abs().sum(-1)
    overlap = generalized_iou(cxcywh_to_xyxy(boxes)[..., :, None, :] * things.size, things.boxes)
    return class_weight * class_cost + L1_COST * distance - GIOU_COST * overlap


def _dice_cost(masks: Tensor, targets: Tensor) -> Tensor:
    """Return the dice cost (n, m) of each pair of masks (n, h, w) and targets (m, h, w)."""
    masks, targets = masks.flatten(1), targets.flatten(1)
    squares = (masks.square().sum(1) + DICE_COST_EPS)[:, None] + targets.square().sum(1) + DICE_COST_EPS
    return 1 - 2 * (masks @ targets.T) / squares


def _assign(costs: list[Tensor]) -> list[Match]:
    """Return the cheapest matching of each layer for the costs (layers, Q, n) of each image.

    All costs are copied from the device together, so that a GPU is synchronized once, not once per image. A matching
    takes about 30 microseconds, too little for threads to help.
    """
    together = torch.cat([cost.flatten() for cost in costs]).cpu().numpy()
    if not np.isfinite(together).all():
        raise NonFiniteError(
            "training diverged: the matching costs are no longer finite; continue from an earlier checkpoint with a "
            "smaller learning rate (--set train.lr=...)"
        )
    parts = np.split(together, np.cumsum([cost.numel() for cost in costs])[:-1])
    return [_cheapest(part.reshape(cost.shape), cost.device) for part, cost in zip(parts, costs, strict=True)]


def _cheapest(cost: npt.NDArray[np.float32], device: torch.device) -> Match:
    pairs = np.array([linear_sum_assignment(layer) for layer in cost], np.int64)  # (layers, 2, n)
    queries, objects = copy_without_sync(torch.from_numpy(pairs), device).unbind(1)
    return Match(queries, objects)


def copy_without_sync(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a small CPU tensor to `device` without synchronizing with a GPU."""
    return tensor.to(device, non_blocking=True)
