"""Panoptic SegFormer as a model family: its settings, its published weights, and the construction of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from panformer_cli.models.panoptic_segformer.official.published import PUBLISHED
from panformer_cli.models.panoptic_segformer.settings import MergingSettings, PanopticSegFormerSettings

if TYPE_CHECKING:
    from panformer_cli.data.categories import CategoryTable
    from panformer_cli.data.structures import Sample
    from panformer_cli.models.base import PanopticModel, TuningCache
    from panformer_cli.models.layers.sampling import SamplingName
    from panformer_cli.models.official import OfficialFormat
    from panformer_cli.models.panoptic_segformer.postprocessing import MergedPrediction


class PanopticSegFormerFamily:
    """Panoptic SegFormer: implements `families.Family`."""

    model_settings = PanopticSegFormerSettings
    inference_settings = MergingSettings
    published = PUBLISHED
    trainable = True

    def build(
        self,
        model: PanopticSegFormerSettings,
        inference: MergingSettings,
        categories: CategoryTable,
        sampling: SamplingName,
    ) -> PanopticModel:
        """Return a newly initialized model."""
        from panformer_cli.models.panoptic_segformer.build import build

        return build(model, inference, categories, sampling)

    def official_format(self) -> OfficialFormat:
        """Return the format of the official checkpoints."""
        from panformer_cli.models.panoptic_segformer.official.checkpoint import OfficialPanopticSegFormer

        return OfficialPanopticSegFormer()

    def tuning_cache(self, prediction: MergedPrediction, sample: Sample) -> TuningCache:
        """Return the pixels of an image, grouped by the candidates that cover them."""
        from panformer_cli.models.panoptic_segformer.merge_cache import cache_of

        return cache_of(prediction.candidates, sample, prediction.settings.lowest_score_threshold)

    def load_tuning_cache(self, path: Path) -> TuningCache:
        """Read a `MergeCache`."""
        from panformer_cli.models.panoptic_segformer.merge_cache import MergeCache

        return MergeCache.load(path)
