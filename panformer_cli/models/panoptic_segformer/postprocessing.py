"""Mask-wise merging: overlapping masks with scores become one panoptic map (paper, section 3.6; spec, section 7).

It runs on the CPU, one full-size mask at a time: a mask then stays in the cache, and memory does not grow with the
number of candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import IdMap, PanopticMap, Segment
from panformer_cli.metrics.detection import InstancePrediction, encode_mask
from panformer_cli.models.base import Prediction
from panformer_cli.models.layers.boxes import cxcywh_to_xyxy
from panformer_cli.models.panoptic_segformer.output import InferenceOutput
from panformer_cli.models.panoptic_segformer.settings import MergingSettings

Floats = npt.NDArray[np.float32]

MASK_THRESHOLD = 0.5
ROUNDING = 1.001
"""A bound is widened by this much before anything is left out for it."""


@dataclass(frozen=True)
class Candidates:
    """Masks that compete for the pixels of one image: things first, then every stuff class.

    labels: (n,) int64 of the category table. class_scores: (n,) 0..1.
    masks: (n, h, w), 0 or more, as the mask decoders give them.
    boxes: (things, 4), x1, y1, x2, y2 in pixels of the original image, clipped to it.
    size: height and width of the original image, H and W, at which masks compete.
    """

    labels: npt.NDArray[np.int64]
    class_scores: Floats
    masks: Floats
    boxes: Floats
    size: tuple[int, int]

    def enlarged(self, index: int) -> Floats:
        """(H, W): a mask at the size of the image, bilinear."""
        height, width = self.size
        return np.asarray(cv2.resize(self.masks[index], (width, height), interpolation=cv2.INTER_LINEAR), np.float32)

    def binary(self, index: int) -> npt.NDArray[np.bool_]:
        """(H, W): where candidate `index` wants to be."""
        return self.enlarged(index) > MASK_THRESHOLD

    @cached_property
    def score_bounds(self) -> Floats:
        """(n,): the most that each score can be.

        Bilinear resizing never goes beyond the largest value M of a mask, so its quality, a mean of such values over
        count / (count + 1), is less than M; a mask with M of the threshold or less is empty.
        """
        most = self.masks.max(axis=(1, 2), initial=0.0) * np.float32(ROUNDING)
        return np.where(most > MASK_THRESHOLD, self.class_scores * most**2, np.float32(0))

    def scores(self, least: float = 0.0) -> Floats:
        """(n,): class score x squared mean of the mask over its binary part.

        least: scores that cannot reach it are not computed, and given as 0.
        """
        scores = np.zeros_like(self.class_scores)
        for index in np.flatnonzero((self.score_bounds >= least) & (self.score_bounds > 0)):
            scores[index] = self.class_scores[index] * _quality(self.enlarged(int(index))) ** 2
        return scores


def _quality(mask: Floats) -> float:
    """The mean of a mask (H, W) over its binary part, of an empty one 0; the count has 1 added, as published."""
    _, kept = cv2.threshold(mask, MASK_THRESHOLD, 0.0, cv2.THRESH_TOZERO)
    return float(cv2.sumElems(kept)[0]) / (cv2.countNonZero(kept) + 1)


@dataclass(frozen=True)
class MergedPrediction(Prediction):
    """Candidates, merged when the panoptic map is first asked for."""

    candidates: Candidates
    categories: CategoryTable
    settings: MergingSettings

    @cached_property
    def panoptic(self) -> PanopticMap:
        """The merged map at the image's own size."""
        return merge_masks(self.candidates, self.categories, self.settings)

    def instances(self, image_id: int | str) -> InstancePrediction:
        """Return the thing candidates, each scored by class score x squared mask quality."""
        scores = self.candidates.scores()
        things = len(self.candidates.boxes)
        labels = self.candidates.labels[:things]
        assert (labels < self.categories.num_things).all(), "things come first"
        masks = [encode_mask(self.candidates.binary(index)) for index in range(things)]
        return InstancePrediction(image_id, scores[:things].tolist(), labels.tolist(), self.candidates.boxes, masks)


def candidates_of(output: InferenceOutput, image: int, size: tuple[int, int], num_things: int) -> Candidates:
    """Return the candidates of one image of a batch of images of equal size, without padding.

    Args:
        size: height and width of the original image, to which masks and boxes are brought.
    """
    stuff_scores = output.stuff_scores[image]
    stuff_labels = torch.arange(len(stuff_scores), device=stuff_scores.device) + num_things
    height, width = size
    boxes = cxcywh_to_xyxy(output.boxes[image])
    limit = boxes.new_tensor([width, height, width, height])
    return Candidates(
        labels=torch.cat([output.labels[image], stuff_labels]).cpu().numpy(),
        class_scores=_floats(torch.cat([output.scores[image], stuff_scores])),
        masks=_floats(torch.cat([output.masks[image], output.stuff_masks[image]])),
        boxes=_floats(torch.minimum((boxes * limit).clamp(min=0), limit)),
        size=size,
    )


def _floats(tensor: Tensor) -> Floats:
    array: Floats = tensor.float().cpu().numpy()
    return array


def merge_masks(candidates: Candidates, categories: CategoryTable, settings: MergingSettings) -> PanopticMap:
    """Candidates in descending score take the pixels that are still free; what nobody takes is void.

    Things of one class are segments of their own, stuff of one class is one segment. Segment ids count from 1.
    """
    scores = candidates.scores(settings.score_threshold)
    order = np.argsort(-scores, kind="stable")
    order = order[(scores[order] >= settings.score_threshold) & (scores[order] > 0)]
    ids = np.zeros(candidates.size, dtype=np.int32)
    segments: dict[int, tuple[int, float]] = {}  # id -> label, score
    stuff_ids: dict[int, int] = {}
    for index in order.tolist():
        label, score = int(candidates.labels[index]), float(scores[index])
        is_thing = label < categories.num_things
        mask = candidates.binary(index)
        free = mask & (ids == 0)
        area, left = np.count_nonzero(mask), np.count_nonzero(free)
        allowed = settings.thing_overlap if is_thing else settings.stuff_overlap
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
