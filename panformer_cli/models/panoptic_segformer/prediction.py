"""What Panoptic SegFormer sees in one image."""

from __future__ import annotations

from functools import cached_property

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import PanopticMap, Sample
from panformer_cli.metrics.detection import InstancePrediction, encode_mask
from panformer_cli.models.base import Prediction
from panformer_cli.models.panoptic_segformer.merge_cache import MergeCache, cache_of
from panformer_cli.models.panoptic_segformer.postprocessing import Candidates, merge_masks
from panformer_cli.models.panoptic_segformer.settings import MergingSettings


class MergedPrediction(Prediction):
    """Candidates, merged when somebody asks for the panoptic map."""

    def __init__(self, candidates: Candidates, categories: CategoryTable, settings: MergingSettings) -> None:
        self.candidates = candidates
        self._categories = categories
        self._settings = settings

    @cached_property
    def panoptic(self) -> PanopticMap:
        """The merged map at the image's own size."""
        return merge_masks(self.candidates, self._categories, self._settings)

    def instances(self, image_id: int | str) -> InstancePrediction:
        """The thing candidates, each scored by class score x mask quality squared."""
        scores = self.candidates.scores()
        things = len(self.candidates.boxes)
        assert (self.candidates.labels[:things] < self._categories.num_things).all(), "things come first"
        return InstancePrediction(
            image_id,
            scores[:things].tolist(),
            self.candidates.labels[:things].tolist(),
            self.candidates.boxes,
            [encode_mask(self.candidates.binary(index)) for index in range(things)],
        )

    def for_tuning(self, sample: Sample) -> MergeCache:
        """The pixels grouped by the candidates that claim them."""
        return cache_of(self.candidates, sample, self._settings.lowest_score_threshold)
