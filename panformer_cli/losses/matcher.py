"""Which query answers for which object: bipartite matching (paper, section 3.5; spec, section 8)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from panformer_cli.data.structures import Targets
from panformer_cli.errors import PanformerError
from panformer_cli.losses.boxes import cxcywh_to_xyxy, generalised_iou, xyxy_to_cxcywh
from panformer_cli.losses.functional import ALPHA, GAMMA
from panformer_cli.models.location_decoder import LocationOutput

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
        is_thing = targets.labels < num_things
        height, width = targets.masks.shape[-2:]
        size = targets.boxes.new_tensor([width, height, width, height])
        return cls(targets.labels[is_thing], targets.boxes[is_thing], size, targets.masks[is_thing])

    @property
    def normalised_boxes(self) -> Tensor:
        """(n, 4) cx, cy, w, h in 0..1 of the image without padding."""
        return xyxy_to_cxcywh(self.boxes / self.size)


class TrainingSelection:
    """A `SelectQueries` for training: the queries matched at the last location layer, and the matching remembered.

    targets: one `Targets` an image.

    Attributes:
        things: the thing part of the targets, one an image.
        matches: one `Match` an image, once it has been called.
    """

    def __init__(self, targets: list[Targets], num_things: int) -> None:
        self.things = [Things.of(target, num_things) for target in targets]
        self.matches: list[Match] = []

    def __call__(self, location: LocationOutput) -> list[Tensor]:
        self.matches = [
            match_locations(location.class_logits[:, image], location.boxes[:, image], things)
            for image, things in enumerate(self.things)
        ]
        return [match.queries[-1] for match in self.matches]


@torch.no_grad()
def match_locations(class_logits: Tensor, boxes: Tensor, things: Things) -> Match:
    """Match queries and things at every location layer.

    class_logits: (layers, Q, num_things). boxes: (layers, Q, 4), cx, cy, w, h in 0..1.
    """
    cost = location_cost(class_logits.float(), boxes.float(), things, CLASS_COST)
    return _assign(cost)


@torch.no_grad()
def match_masks(class_logits: Tensor, boxes: Tensor, masks: Tensor, things: Things, target_masks: Tensor) -> Match:
    """The second matching, among the queries that were given a mask: it decides the mask targets.

    class_logits: (n, num_things), boxes: (n, 4), masks: (n, h, w) of the matched queries, last layer and tail.
    target_masks: (things, h, w), 0..1. The `Match` has one layer, and its queries count within the n.
    """
    cost = location_cost(class_logits.float(), boxes.float(), things, MASK_CLASS_COST)
    cost = cost + DICE_COST * _dice_cost(masks.float(), target_masks)
    return _assign(cost[None])


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


def _assign(cost: Tensor) -> Match:
    """(layers, Q, n) costs to the cheapest matching of each layer."""
    if not torch.isfinite(cost).all():
        raise PanformerError(
            "training diverged: the matching costs are no longer finite; go on from an earlier checkpoint with a "
            "smaller learning rate (--set train.lr=...)"
        )
    pairs = [linear_sum_assignment(layer) for layer in cost.cpu().numpy()]
    queries = torch.tensor([pair[0].tolist() for pair in pairs], dtype=torch.int64, device=cost.device)
    objects = torch.tensor([pair[1].tolist() for pair in pairs], dtype=torch.int64, device=cost.device)
    return Match(queries, objects)
