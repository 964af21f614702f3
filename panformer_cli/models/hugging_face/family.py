"""Models of transformers as a model family: their settings, and the construction of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from panformer_cli.models.hugging_face.settings import HuggingFaceSettings, QueryMergingSettings
from panformer_cli.models.published import PublishedWeights

if TYPE_CHECKING:
    from panformer_cli.data.categories import CategoryTable
    from panformer_cli.data.structures import Sample
    from panformer_cli.models.base import PanopticModel, TuningCache
    from panformer_cli.models.hugging_face.prediction import QueryPrediction
    from panformer_cli.models.layers.sampling import SamplingName


class HuggingFaceFamily:
    """Models of transformers: implements `families.Family`. Their weights come from folders, not from downloads."""

    model_settings = HuggingFaceSettings
    inference_settings = QueryMergingSettings
    published: tuple[PublishedWeights, ...] = ()
    trainable = False

    def build(
        self,
        model: HuggingFaceSettings,
        inference: QueryMergingSettings,
        categories: CategoryTable,
        sampling: SamplingName,
    ) -> PanopticModel:
        """Return a model with random weights. Neither thresholds nor the sampling belong to the network."""
        from panformer_cli.models.hugging_face.loading import build

        del inference, sampling
        return build(model, categories)

    def official_format(self) -> None:
        """Return None: transformers saves folders, which `folder.read_folder` reads."""
        return

    def tuning_cache(self, prediction: QueryPrediction, sample: Sample) -> TuningCache:
        """Return the areas of an image for all score thresholds that `evaluate tune` tries."""
        from panformer_cli.models.hugging_face.threshold_cache import cache_of

        return cache_of(prediction, sample)

    def load_tuning_cache(self, path: Path) -> TuningCache:
        """Read a `ThresholdCache`."""
        from panformer_cli.models.hugging_face.threshold_cache import ThresholdCache

        return ThresholdCache.load(path)
