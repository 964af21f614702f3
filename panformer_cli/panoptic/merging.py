"""Mask-wise merging: overlapping masks with scores become one panoptic map (paper, section 3.6; spec, section 7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.panoptic_writer import segments_of
from panformer_cli.data.structures import IdMap, PanopticMap, Segment
from panformer_cli.losses.boxes import cxcywh_to_xyxy
from panformer_cli.models.location_decoder import LocationOutput
from panformer_cli.models.panoptic_segformer import PanopticOutput
from panformer_cli.recipe import InferenceRecipe

MASK_THRESHOLD = 0.5
PIXELS_AT_ONCE = 2**24
"""Of enlarged masks in memory, all together: 64 MB of float32."""


class InferenceSelection:
    """A `SelectQueries` for inference: the top (query, class) pairs of the last location layer.

    A query may be chosen several times, each time with another class.

    Attributes:
        labels: (k,) int64 of each image, and scores: (k,) 0..1, in the order of the chosen queries; set by the call.
    """

    def __init__(self, top_k: int) -> None:
        self.top_k = top_k
        self.labels: list[Tensor] = []
        self.scores: list[Tensor] = []

    def __call__(self, location: LocationOutput) -> list[Tensor]:
        logits = location.class_logits[-1].float()  # (B, Q, things)
        num_things = logits.shape[-1]
        scores = logits.sigmoid().flatten(1)
        top = scores.topk(min(self.top_k, scores.shape[1]), dim=1)
        self.scores = list(top.values)
        self.labels = list(top.indices % max(num_things, 1))
        return list(top.indices // max(num_things, 1))


@dataclass
class Candidates:
    """Masks that compete for the pixels of one image: things first, then every stuff class.

    labels: (n,) int64 of the category table. class_scores: (n,) 0..1.
    masks: (n, h, w) float, 0 or more, as the mask decoders give them.
    boxes: (things, 4) float, x1, y1, x2, y2 in pixels of the original image, clipped to it.
    size: height and width of the original image, H and W, at which masks compete.
    """

    labels: Tensor
    class_scores: Tensor
    masks: Tensor
    boxes: Tensor
    size: tuple[int, int]

    def binary(self, index: int) -> Tensor:
        """(H, W) bool: where candidate `index` wants to be."""
        return self.enlarged(self.masks[index : index + 1])[0] > MASK_THRESHOLD

    def scores(self) -> Tensor:
        """(n,) class score x squared mean of the mask over its binary part.

        A few masks at a time are enlarged: all of them at the size of a 12-megapixel photograph are 7 GB.
        """
        at_once = max(1, PIXELS_AT_ONCE // (self.size[0] * self.size[1]))
        qualities = [_quality(self.enlarged(part)) for part in self.masks.split(at_once)]
        return self.class_scores * torch.cat(qualities) ** 2

    def enlarged(self, masks: Tensor) -> Tensor:
        """Some of the masks, (k, h, w), at the size of the image: (k, H, W)."""
        return F.interpolate(masks[None], size=self.size, mode="bilinear", align_corners=False)[0]


def _quality(masks: Tensor) -> Tensor:
    """(n, H, W) to (n,): the mean of each mask over its binary part, an empty one's is 0."""
    binary = masks > MASK_THRESHOLD
    return (masks * binary).flatten(1).sum(1) / (binary.flatten(1).sum(1) + 1)


def candidates_of(
    output: PanopticOutput, selection: InferenceSelection, image: int, size: tuple[int, int], num_things: int
) -> Candidates:
    """The candidates of one image of a batch of images of equal size, without padding.

    size: height and width of the original image, to which masks and boxes are brought.
    """
    things = output.things.masks[-1][image, : len(output.selected[image])].float()
    stuff = output.stuff.masks[-1][image].float()
    stuff_labels = torch.arange(len(stuff), device=stuff.device) + num_things
    height, width = size
    limit = things.new_tensor([width, height, width, height])
    boxes = cxcywh_to_xyxy(output.location.boxes[-1, image, output.selected[image]].float()) * limit
    return Candidates(
        labels=torch.cat([selection.labels[image], stuff_labels]),
        class_scores=torch.cat([selection.scores[image], output.stuff_logits[-1, image].float().sigmoid()]),
        masks=torch.cat([things, stuff]),
        boxes=torch.minimum(boxes.clamp(min=0), limit),
        size=size,
    )


def merge_masks(candidates: Candidates, categories: CategoryTable, recipe: InferenceRecipe) -> PanopticMap:
    """Candidates in descending score take the pixels that are still free; what nobody takes is void.

    Things of one class are segments of their own, stuff of one class is one segment. Segment ids count from 1.
    """
    scores = candidates.scores()
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] >= recipe.score_threshold]
    ids = np.zeros(candidates.size, dtype=np.int32)
    segments: dict[int, tuple[int, float]] = {}  # id -> label, score
    stuff_ids: dict[int, int] = {}
    for index in order.tolist():
        label, score = int(candidates.labels[index]), float(scores[index])
        is_thing = label < categories.num_things
        mask = candidates.binary(index).cpu().numpy()
        free = mask & (ids == 0)
        area, left = int(mask.sum()), int(free.sum())
        allowed = recipe.thing_overlap if is_thing else recipe.stuff_overlap
        if area == 0 or (area - left) / area > allowed or left == 0:
            continue
        segment_id = len(segments) + 1 if is_thing else stuff_ids.setdefault(label, len(segments) + 1)
        segments.setdefault(segment_id, (label, score))
        ids[free] = segment_id
    return PanopticMap(ids, _segments(ids, segments, categories))


def _segments(ids: IdMap, found: dict[int, tuple[int, float]], categories: CategoryTable) -> tuple[Segment, ...]:
    category_of_id = {segment_id: categories.by_label(label).id for segment_id, (label, _) in found.items()}
    return tuple(
        Segment(segment.id, segment.category_id, segment.area, segment.bbox, score=found[segment.id][1])
        for segment in segments_of(ids, category_of_id)
    )
