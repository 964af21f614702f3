"""Mask-wise merging of scored masks to a panoptic map (paper, section 3.6; docs/model.md, "Inference and merging").

It runs on the CPU with one full-size mask at a time, so that a mask stays in the cache, and memory does not grow with
the number of candidates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import IdMap, PanopticMap, Segment
from panformer_cli.metrics.detection import InstancePrediction, encode_mask
from panformer_cli.models.candidates import Claim, Floats, MaskCandidates, MaskPrediction
from panformer_cli.models.layers.boxes import cxcywh_to_xyxy
from panformer_cli.models.panoptic_segformer.output import InferenceOutput
from panformer_cli.models.panoptic_segformer.settings import MergingSettings

MASK_THRESHOLD = 0.5
ROUNDING = 1.001
"""Factor on upper bounds, so that rounding cannot exclude a candidate."""


@dataclass(frozen=True)
class Candidates(MaskCandidates):
    """The masks of the selected things and of all stuff classes; see `MaskCandidates`.

    The masks are the output of the mask decoders at stride 8.
    """

    threshold: ClassVar[float] = MASK_THRESHOLD

    @cached_property
    def score_bounds(self) -> Floats:
        """Upper bounds of the scores, (n,).

        Bilinear resizing never exceeds the maximum M of a mask. Its quality, a mean of such values times
        count / (count + 1), is therefore less than M. A mask whose M is at most the threshold is empty.
        """
        most = self.masks.max(axis=(1, 2), initial=0.0) * np.float32(ROUNDING)
        return np.where(most > MASK_THRESHOLD, self.class_scores * most**2, np.float32(0))

    def scores(self, least: float = 0.0) -> Floats:
        """Return class score x squared mask quality, (n,).

        Args:
            least: scores that cannot reach this value are not computed and are 0.
        """
        scores = np.zeros_like(self.class_scores)
        for index in np.flatnonzero((self.score_bounds >= least) & (self.score_bounds > 0)):
            scores[index] = self.class_scores[index] * _quality(self.enlarged(int(index))) ** 2
        return scores


def _quality(mask: Floats) -> float:
    """Return the sum of a mask (H, W) above the threshold / (its number of pixels + 1), as published."""
    _, kept = cv2.threshold(mask, MASK_THRESHOLD, 0.0, cv2.THRESH_TOZERO)
    return float(cv2.sumElems(kept)[0]) / (cv2.countNonZero(kept) + 1)


@dataclass(frozen=True)
class MergedPrediction(MaskPrediction):
    """Candidates that are merged when the panoptic map is first accessed."""

    candidates: Candidates
    categories: CategoryTable
    settings: MergingSettings

    @cached_property
    def panoptic(self) -> PanopticMap:
        """The merged map at the original image size."""
        return merge_masks(self.candidates, self.categories, self.settings)

    @property
    def least_score(self) -> float:
        """The score threshold."""
        return self.settings.score_threshold

    def with_candidates(self, candidates: MaskCandidates) -> MergedPrediction:
        """Return the prediction that other candidates give."""
        assert isinstance(candidates, Candidates)
        return replace(self, candidates=candidates)

    def merge(self, claims: Iterable[Claim], size: tuple[int, int]) -> PanopticMap:
        """Return `merge_claims` with the settings of this prediction."""
        return merge_claims(claims, size, self.categories, self.settings)

    def instances(self, image_id: int | str) -> InstancePrediction:
        """Return the thing candidates. Their score is class score x squared mask quality."""
        scores = self.candidates.scores()
        things = len(self.candidates.boxes)
        labels = self.candidates.labels[:things]
        assert (labels < self.categories.num_things).all(), "things come first"
        masks = [encode_mask(self.candidates.binary(index)) for index in range(things)]
        return InstancePrediction(image_id, scores[:things].tolist(), labels.tolist(), self.candidates.boxes, masks)


def candidates_of(output: InferenceOutput, image: int, size: tuple[int, int], num_things: int) -> Candidates:
    """Return the candidates of one image of a batch of images of one size, without padding.

    Args:
        output: output of the network.
        image: position of the image in the batch.
        size: height and width of the original image, to which masks and boxes are scaled.
        num_things: number of thing classes in the data set.
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
    """Return the panoptic map of candidates that reach the score threshold; see `merge_claims`."""
    scores = candidates.scores(settings.score_threshold)
    order = np.argsort(-scores, kind="stable")
    order = order[(scores[order] >= settings.score_threshold) & (scores[order] > 0)]
    claims = (
        Claim(int(candidates.labels[index]), float(scores[index]), 0, 0, candidates.binary(index))
        for index in order.tolist()
    )
    return merge_claims(claims, candidates.size, categories, settings)


def merge_claims(
    claims: Iterable[Claim], size: tuple[int, int], categories: CategoryTable, settings: MergingSettings
) -> PanopticMap:
    """Return the panoptic map: claims take free pixels in descending order of score, and the other pixels are void.

    Every thing is a segment, and all stuff of one class is one segment. Segment ids start at 1.

    Args:
        claims: in descending order of score; none is below the score threshold.
        size: height and width of the map.
        categories: category table of the data set.
        settings: the overlap thresholds.
    """
    ids = np.zeros(size, dtype=np.int32)
    segments: dict[int, tuple[int, float]] = {}  # id -> label, score
    stuff_ids: dict[int, int] = {}
    for label, score, top, left, mask in claims:
        is_thing = label < categories.num_things
        crop = ids[top : top + mask.shape[0], left : left + mask.shape[1]]
        free = mask & (crop == 0)
        area, remaining = np.count_nonzero(mask), np.count_nonzero(free)
        allowed = settings.thing_overlap if is_thing else settings.stuff_overlap
        if area == 0 or (area - remaining) / area > allowed or remaining == 0:
            continue
        segment_id = len(segments) + 1 if is_thing else stuff_ids.setdefault(label, len(segments) + 1)
        segments.setdefault(segment_id, (label, score))
        crop[free] = segment_id
    return PanopticMap(ids, _segments(ids, segments, categories))


def _segments(ids: IdMap, found: dict[int, tuple[int, float]], categories: CategoryTable) -> tuple[Segment, ...]:
    category_of_id = {segment_id: categories.by_label(label).id for segment_id, (label, _) in found.items()}
    return tuple(
        Segment(segment.id, segment.category_id, segment.area, segment.bbox, score=found[segment.id][1])
        for segment in segments_of(ids, category_of_id)
    )
