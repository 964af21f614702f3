"""All losses of one forward pass (spec, section 8)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from panformer_cli.models.base import LossCounts
from panformer_cli.models.layers.boxes import cxcywh_to_xyxy, generalised_iou
from panformer_cli.models.layers.losses import dice_loss, focal_loss, resize_masks
from panformer_cli.models.panoptic_segformer.matcher import ImageTargets, Match, Things, match_masks, without_waiting
from panformer_cli.models.panoptic_segformer.output import TrainingOutput

CLASS_WEIGHT, L1_WEIGHT, GIOU_WEIGHT = 2.0, 5.0, 2.0
MASK_WEIGHT = 2.0
STUFF_CLASS_WEIGHT = 4.0


class PanopticCriterion:
    """Losses of a `TrainingOutput`: each is averaged over images, so that processes of a step may simply be averaged.

    num_things: thing classes of the data set.
    """

    def __init__(self, num_things: int) -> None:
        self.num_things = num_things

    def __call__(
        self, output: TrainingOutput, targets: list[ImageTargets], matches: list[Match], counts: LossCounts
    ) -> dict[str, Tensor]:
        """Weighted losses by name, `<term>/<layer>`: their sum is what is minimised.

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
        """Sums over the queries of one image, (layers,) a term."""
        logits = output.location.class_logits[:, image].float()  # (layers, Q, things)
        boxes = output.location.boxes[:, image].float()
        layer = torch.arange(len(logits), device=logits.device)[:, None]
        wanted = torch.zeros_like(logits)
        wanted[layer, match.queries, things.labels[match.objects]] = 1.0
        matched = boxes[layer, match.queries]  # (layers, n, 4)
        pixels = cxcywh_to_xyxy(matched) * things.size
        overlap = generalised_iou(pixels, things.boxes[match.objects])
        return {
            "location_class": focal_loss(logits, wanted).sum((1, 2)),
            "location_l1": (matched - things.normalised_boxes[match.objects]).abs().sum((1, 2)),
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
        kinds = sorted({label for label in target.labels if label >= self.num_things})
        present = without_waiting(torch.tensor(kinds, dtype=torch.int64), logits.device) - self.num_things
        wanted = torch.zeros_like(logits)
        wanted.index_fill_(1, present, 1.0)
        masks = torch.stack([mask[image, present] for mask in output.stuff.masks]).float()
        return {
            "stuff_mask": _mask_loss(masks, _on_canvas(_regions(target.masks, target.labels, kinds), output.canvas)),
            "stuff_class": focal_loss(logits, wanted).sum(1),
        }


def _regions(masks: Tensor, labels: list[int], kinds: list[int]) -> Tensor:
    """(N, H, W) to (kinds, H, W): a class that was annotated in several segments is one region all the same."""
    places = [[place for place, label in enumerate(labels) if label == kind] for kind in kinds]
    regions = [torch.stack([masks[place] for place in of_kind]).any(0) for of_kind in places]
    return torch.stack(regions) if regions else masks[:0]


def thing_share(counts: LossCounts) -> float:
    """Return the weight of the thing and location losses, 0..1; stuff losses get the rest (spec, section 8)."""
    return max(counts.things, 1.0) / (max(counts.things, 1.0) + max(counts.stuff, 1.0))


def _scales(counts: LossCounts, images: int) -> dict[str, float]:
    """Weight, normalization and balance of every term."""
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
    """Dice at twice the masks' size: (layers, n, h, w) and (n, H, W) to (layers,)."""
    size = (2 * masks.shape[-2], 2 * masks.shape[-1])
    return dice_loss(resize_masks(masks, size), resize_masks(targets, size)).sum(1)


def _on_canvas(masks: Tensor, canvas: tuple[int, int]) -> Tensor:
    """(n, H, W) bool to (n, *canvas) float, zero on the padding."""
    height, width = masks.shape[-2:]
    return F.pad(masks.float(), (0, canvas[1] - width, 0, canvas[0] - height))
