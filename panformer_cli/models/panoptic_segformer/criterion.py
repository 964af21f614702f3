"""The losses of one forward pass (docs/model.md, "Losses")."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from panformer_cli.models.base import LossCounts
from panformer_cli.models.layers.boxes import cxcywh_to_xyxy, generalized_iou
from panformer_cli.models.layers.losses import dice_loss, focal_loss, resize_masks
from panformer_cli.models.panoptic_segformer.matcher import ImageTargets, Match, Things, copy_without_sync, match_masks
from panformer_cli.models.panoptic_segformer.output import TrainingOutput

CLASS_WEIGHT, L1_WEIGHT, GIOU_WEIGHT = 2.0, 5.0, 2.0
MASK_WEIGHT = 2.0
STUFF_CLASS_WEIGHT = 4.0


class PanopticCriterion:
    """The losses of a `TrainingOutput`, averaged over images, so that those of several processes can be averaged too.

    Args:
        num_things: number of thing classes in the data set.
    """

    def __init__(self, num_things: int) -> None:
        self.num_things = num_things

    def __call__(
        self, output: TrainingOutput, targets: list[ImageTargets], matches: list[Match], counts: LossCounts
    ) -> dict[str, Tensor]:
        """Return the weighted losses by name, `<term>/<layer>`. Training minimizes their sum.

        Terms: location_class, location_l1, location_giou (after each location layer); thing_mask, stuff_mask (each
        block, then the tail); stuff_class (each stuff block).
        """
        losses: dict[str, Tensor] = {}
        for image, (target, match) in enumerate(zip(targets, matches, strict=True)):
            terms = {
                **self._location_losses(output, image, target.things, match),
                **self._thing_mask_loss(output, image, target.things),
                **self._stuff_losses(output, image, target),
            }
            for term, per_layer in terms.items():
                for layer, value in enumerate(per_layer.unbind()):
                    name = f"{term}/{layer}"
                    losses[name] = losses.get(name, 0) + value
        scales = _scales(counts, images=len(targets))
        return {name: value * scales[name.split("/")[0]] for name, value in losses.items()}

    def _location_losses(self, output: TrainingOutput, image: int, things: Things, match: Match) -> dict[str, Tensor]:
        """Return the sums over the queries of one image, (layers,) per term."""
        logits = output.location.class_logits[:, image].float()  # (layers, Q, things)
        boxes = output.location.boxes[:, image].float()
        layer = torch.arange(len(logits), device=logits.device)[:, None]
        class_targets = torch.zeros_like(logits)
        class_targets[layer, match.queries, things.labels[match.objects]] = 1.0
        matched = boxes[layer, match.queries]  # (layers, n, 4)
        pixels = cxcywh_to_xyxy(matched) * things.size
        overlap = generalized_iou(pixels, things.boxes[match.objects])
        return {
            "location_class": focal_loss(logits, class_targets).sum((1, 2)),
            "location_l1": (matched - things.normalized_boxes[match.objects]).abs().sum((1, 2)),
            "location_giou": (1 - overlap).sum(1),
        }

    def _thing_mask_loss(self, output: TrainingOutput, image: int, things: Things) -> dict[str, Tensor]:
        selected = output.selected[image]
        masks = torch.stack([mask[image, : len(selected)] for mask in output.things.masks]).float()
        target_masks = _on_canvas(things.masks, output.canvas)
        match = match_masks(
            output.location.class_logits[-1, image, selected],
            output.location.boxes[-1, image, selected],
            masks[-1],
            things,
            resize_masks(target_masks, (masks.shape[-2], masks.shape[-1])),
        )
        matched = masks[:, match.queries[0]]
        return {"thing_mask": _mask_loss(matched, target_masks[match.objects[0]])}

    def _stuff_losses(self, output: TrainingOutput, image: int, target: ImageTargets) -> dict[str, Tensor]:
        logits = output.stuff_logits[:, image].float()  # (blocks, stuff)
        labels = sorted({label for label in target.labels if label >= self.num_things})
        present = copy_without_sync(torch.tensor(labels, dtype=torch.int64), logits.device) - self.num_things
        class_targets = torch.zeros_like(logits)
        class_targets.index_fill_(1, present, 1.0)
        masks = torch.stack([mask[image, present] for mask in output.stuff.masks]).float()
        target_masks = _on_canvas(_stuff_masks(target.masks, target.labels, labels), output.canvas)
        return {
            "stuff_mask": _mask_loss(masks, target_masks),
            "stuff_class": focal_loss(logits, class_targets).sum(1),
        }


def _stuff_masks(masks: Tensor, labels: list[int], stuff_labels: list[int]) -> Tensor:
    """Return one mask per stuff label, (n, H, W), from the masks of all segments, (N, H, W)."""
    indices = [[index for index, label in enumerate(labels) if label == stuff] for stuff in stuff_labels]
    merged = [torch.stack([masks[index] for index in of_label]).any(0) for of_label in indices]
    return torch.stack(merged) if merged else masks[:0]


def thing_share(counts: LossCounts) -> float:
    """Return the balance of thing and location losses, 0..1. Stuff losses get the rest (docs/model.md, "Losses")."""
    return max(counts.things, 1.0) / (max(counts.things, 1.0) + max(counts.stuff, 1.0))


def _scales(counts: LossCounts, images: int) -> dict[str, float]:
    """Return the product of weight, normalization and balance for each term."""
    share = thing_share(counts)
    thing = share / max(counts.things, 1.0) / images
    stuff = (1 - share) / max(counts.stuff, 1.0) / images
    return {
        "location_class": CLASS_WEIGHT * thing,
        "location_l1": L1_WEIGHT * thing,
        "location_giou": GIOU_WEIGHT * thing,
        "thing_mask": MASK_WEIGHT * thing,
        "stuff_mask": MASK_WEIGHT * stuff,
        "stuff_class": STUFF_CLASS_WEIGHT * stuff,
    }


def _mask_loss(masks: Tensor, targets: Tensor) -> Tensor:
    """Return the dice loss at twice the size of the masks, (layers,), for (layers, n, h, w) and (n, H, W)."""
    size = (2 * masks.shape[-2], 2 * masks.shape[-1])
    return dice_loss(resize_masks(masks, size), resize_masks(targets, size)).sum(1)


def _on_canvas(masks: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Return (n, H, W) bool masks as (n, *canvas) float, zero on the padding."""
    height, width = masks.shape[-2:]
    return F.pad(masks.float(), (0, canvas[1] - width, 0, canvas[0] - height))
