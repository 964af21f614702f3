"""The prediction for one image, from the masks of its queries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import IdMap, PanopticMap
from panformer_cli.metrics.detection import InstancePrediction
from panformer_cli.models.base import Prediction
from panformer_cli.models.hugging_face import detr_merging, merging
from panformer_cli.models.hugging_face.architectures import Architecture
from panformer_cli.models.hugging_face.instances import Instance, best_pairs, one_per_query
from panformer_cli.models.hugging_face.query_masks import QueryMasks
from panformer_cli.models.hugging_face.settings import NO_CATEGORY, QueryMergingSettings
from panformer_cli.models.hugging_face.transformers_merging import post_process


@dataclass(frozen=True)
class Rules:
    """What labels and masks become.

    Attributes:
        architecture: whose original project's rules apply.
        category_ids: category id of each label, or `NO_CATEGORY`.
        groups: of each label: masks of one group are merged; None for things.
        categories: category table of the results.
    """

    architecture: Architecture
    category_ids: tuple[int, ...]
    groups: tuple[int | None, ...]
    categories: CategoryTable


class FoundSegment(NamedTuple):
    """A segment before labels become categories."""

    id: int
    label: int
    score: float


@dataclass(frozen=True)
class QueryPrediction(Prediction):
    """Masks of queries that are merged when the panoptic map is first accessed."""

    masks: QueryMasks
    rules: Rules
    settings: QueryMergingSettings

    @cached_property
    def panoptic(self) -> PanopticMap:
        """The merged map at the original image size."""
        ids, segments = self.label_map()
        return self.with_categories(ids, segments)

    def label_map(self) -> tuple[IdMap, list[FoundSegment]]:
        """Return the merged map with all segments, also those whose label has no category."""
        rules, settings, masks = self.rules, self.settings, self.masks
        if settings.post_processing != "original":
            stuff = [label for label, group in enumerate(rules.groups) if group is not None]
            thresholds = (settings.score_threshold, settings.overlap_threshold)
            is_default = settings.post_processing == "transformers_defaults"
            ids, listed = post_process(masks, rules.architecture, None if is_default else thresholds, stuff)
            return ids, [FoundSegment(*segment) for segment in listed]
        kept = masks.kept(settings.score_threshold)
        if rules.architecture.rule == "detr":
            ids, segments = detr_merging.merge(masks, kept, rules.groups)
        else:
            ids, segments = merging.merge(
                masks, kept, rules.groups, settings.overlap_threshold, rules.architecture.paints_outside
            )
        return ids, [FoundSegment(number, kept.labels[query], float(kept.scores[query])) for number, query in segments]

    def with_categories(self, ids: IdMap, segments: list[FoundSegment]) -> PanopticMap:
        """Return a map in which segments without a category are void.

        transformers gives several segments one id; the first one counts.
        """
        first = {segment.id: segment for segment in reversed(segments)}
        category_of_id = {number: self.rules.category_ids[segment.label] for number, segment in first.items()}
        category_of_id = {number: of for number, of in category_of_id.items() if of != NO_CATEGORY}
        known = np.zeros(max(first, default=0) + 1, np.int32)
        known[list(category_of_id)] = list(category_of_id)
        ids = known[ids]
        return PanopticMap(
            ids,
            tuple(replace(segment, score=first[segment.id].score) for segment in segments_of(ids, category_of_id)),
        )

    def instances(self, image_id: int | str) -> InstancePrediction:
        """Return the instances of things, by descending score."""
        rules = self.rules
        found = sorted(self.label_instances(), key=lambda instance: -instance.score)
        return InstancePrediction(
            image_id,
            [instance.score for instance in found],
            [rules.categories.label(rules.category_ids[instance.label]) for instance in found],
            np.array([instance.box for instance in found], np.float32).reshape(-1, 4),
            [instance.mask for instance in found],
        )

    def label_instances(self) -> Iterator[Instance]:
        """Yield the instances of labels that are things."""
        rules = self.rules
        things = {
            label
            for label, number in enumerate(rules.category_ids)
            if number != NO_CATEGORY and rules.categories.by_id(number).is_thing
        }
        if rules.architecture.rule == "detr":
            return one_per_query(self.masks, things)
        return best_pairs(self.masks, rules.architecture.instances, things)
