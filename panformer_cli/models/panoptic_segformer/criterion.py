"""All losses of one forward pass (spec, section 8)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from panformer_cli.data.structures import Targets
from panformer_cli.models.layers.boxes import cxcywh_to_xyxy, generalised_iou
from panformer_cli.models.layers.losses import dice_loss, focal_loss, resize_masks
from panformer_cli.models.panoptic_segformer.matcher import (
    Match,
    Things,
    TrainingSelection,
    match_masks,
    without_waiting,
)
from panformer_cli.models.panoptic_segformer.network import PanopticOutput

CLASS_WEIGHT, L1_WEIGHT, GIOU_WEIGHT = 2.0, 5.0, 2.0
MASK_WEIGHT = 2.0
STUFF_CLASS_WEIGHT = 4.0


@dataclass(frozen=True)
class SegmentCounts:
    """Segments to learn, the mean over all images of an optimiser step, in all processes. Not clamped.

    things: objects. stuff: stuff classes that are present.
    """

    things: float
    stuff: float

    @property
    def thing_share(self) -> float:
        """What thing and location losses are multiplied by; stuff losses by the rest."""
        return max(self.things, 1.0) / (max(self.things, 1.0) + max(self.stuff, 1.0))


def count_segments(targets: list[Targets], num_things: int) -> tuple[int, int]:
    """How many things and stuff classes are in these images: (things, stuff), sums."""
    labels = [target.labels for target in targets]
    things = sum(int((image < num_things).sum()) for image in labels)
    stuff = sum(image[image >= num_things].unique().numel() for image in labels)
    return things, stuff


class PanopticCriterion:
    """Losses of a `PanopticOutput`: each is averaged over images, so that processes of a step may simply be averaged.

    num_things: thing classes of the data set.
    """

    def __init__(self, num_things: int) -> None:
        self.num_things = num_things

    def __call__(
        self, output: PanopticOutput, targets: list[Targets], selection: TrainingSelection, counts: SegmentCounts
    ) -> dict[str, Tensor]:
        """Weighted losses by name, `<term>/<layer>`: their sum is what is minimised.

        Terms: location_class, location_l1, location_giou (after each location layer); thing_mask, stuff_mask (each
        block, then the tail); stuff_class (each stuff block).
        """
        losses: dict[str, Tensor] = {}
        for image, things in enumerate(selection.things):
            terms = {
                **self._location_losses(output, image, things, selection.matches[image]),
                **self._thing_mask_loss(output, image, things),
                **self._stuff_losses(output, image, targets[image], selection.labels[image]),
            }
            for term, per_layer in terms.items():
                for layer, value in enumerate(per_layer.unbind()):
                    name = f"{term}/{layer}"
                    losses[name] = losses.get(name, 0) + value
        scales = _scales(counts, images=len(targets))
        return {name: value * scales[name.split("/")[0]] for name, value in losses.items()}

    def _location_losses(self, output: PanopticOutput, image: int, things: Things, match: Match) -> dict[str, Tensor]:
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

    def _thing_mask_loss(self, output: PanopticOutput, image: int, things: Things) -> dict[str, Tensor]:
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

    def _stuff_losses(
        self, output: PanopticOutput, image: int, targets: Targets, labels: list[int]
    ) -> dict[str, Tensor]:
        """labels: those of the targets, on the CPU."""
        logits = output.stuff_logits[:, image].float()  # (blocks, stuff)
        kinds = sorted({label for label in labels if label >= self.num_things})
        present = without_waiting(torch.tensor(kinds, dtype=torch.int64), logits.device) - self.num_things
        wanted = torch.zeros_like(logits)
        wanted.index_fill_(1, present, 1.0)
        masks = torch.stack([mask[image, present] for mask in output.stuff.masks]).float()
        return {
            "stuff_mask": _mask_loss(masks, _on_canvas(_regions(targets.masks, labels, kinds), output.canvas)),
            "stuff_class": focal_loss(logits, wanted).sum(1),
        }


def _regions(masks: Tensor, labels: list[int], kinds: list[int]) -> Tensor:
    """(N, H, W) to (kinds, H, W): a class that was annotated in several segments is one region all the same."""
    places = [[place for place, label in enumerate(labels) if label == kind] for kind in kinds]
    regions = [torch.stack([masks[place] for place in of_kind]).any(0) for of_kind in places]
    return torch.stack(regions) if regions else masks[:0]


def _scales(counts: SegmentCounts, images: int) -> dict[str, float]:
    """Weight, normalisation and balance of every term."""
    thing = counts.thing_share / max(counts.things, 1.0) / images
    stuff = (1 - counts.thing_share) / max(counts.stuff, 1.0) / images
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
