"""K-Net as a model family: its settings, its published weights, and the construction of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from panformer_cli.models.knet.official.published import PUBLISHED
from panformer_cli.models.knet.settings import KNetSettings, WinnerSettings

if TYPE_CHECKING:
    from panformer_cli.data.categories import CategoryTable
    from panformer_cli.data.structures import Sample
    from panformer_cli.models.base import PanopticModel, TuningCache
    from panformer_cli.models.knet.postprocessing import KernelPrediction
    from panformer_cli.models.layers.sampling import SamplingName
    from panformer_cli.models.official import OfficialFormat


class KNetFamily:
    """K-Net: implements `families.Family`."""

    model_settings = KNetSettings
    inference_settings = WinnerSettings
    published = PUBLISHED
    trainable = False

    def build(
        self, model: KNetSettings, inference: WinnerSettings, categories: CategoryTable, sampling: SamplingName
    ) -> PanopticModel:
        """Return a newly initialized model. It has no deformable attention."""
        from panformer_cli.models.knet.build import build

        del inference, sampling
        return build(model, categories)

    def official_format(self) -> OfficialFormat:
        """Return the format of the official checkpoints."""
        from panformer_cli.models.knet.official.checkpoint import OfficialKNet

        return OfficialKNet()

    def tuning_cache(self, prediction: KernelPrediction, sample: Sample) -> TuningCache:
        """Return the pixels that each kernel shares with the ground truth."""
        from panformer_cli.models.knet.merge_cache import cache_of

        return cache_of(prediction, sample)

    def load_tuning_cache(self, path: Path) -> TuningCache:
        """Read a `WinnerCache`."""
        from panformer_cli.models.knet.merge_cache import WinnerCache

        return WinnerCache.load(path)
