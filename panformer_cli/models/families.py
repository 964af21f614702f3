"""The model families, by the name that `model.family` has in a recipe; no torch before a model is built.

To add one, write its folder (`models/<family>/` with a `family.py`) and add a row to `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from panformer_cli.models.panoptic_segformer.family import PanopticSegFormerFamily
from panformer_cli.models.panoptic_segformer.settings import FAMILY as PANOPTIC_SEGFORMER
from panformer_cli.settings import InferenceSettings, ModelSettings

if TYPE_CHECKING:
    from panformer_cli.data.categories import CategoryTable
    from panformer_cli.data.structures import Sample
    from panformer_cli.models.base import PanopticModel, TuningCache
    from panformer_cli.models.layers.sampling import SamplingName
    from panformer_cli.models.official import OfficialFormat
    from panformer_cli.models.published import PublishedWeights

DEFAULT_FAMILY = PANOPTIC_SEGFORMER
"""Of recipes and checkpoints that name none."""


class Family(Protocol):
    """What is known of a model family before one of its models is built.

    Attributes:
        model_settings: the recipe's section `model`.
        inference_settings: the recipe's section `inference`.
        published: weights that can be downloaded, in the order of `panformer weights list`.
    """

    @property
    def model_settings(self) -> Callable[..., ModelSettings]: ...

    @property
    def inference_settings(self) -> Callable[..., InferenceSettings]: ...

    @property
    def published(self) -> tuple[PublishedWeights, ...]: ...

    def build(self, model: Any, inference: Any, categories: CategoryTable, sampling: SamplingName) -> PanopticModel:
        """Return a freshly initialized model of these settings; its backbone is random, too.

        Args:
            model: the family's model settings.
            inference: the family's inference settings, for what the network itself has to know.
            categories: of the data set.
            sampling: implementation of deformable attention; families without it ignore this.

        Raises:
            PanformerError: the backbone does not exist or does not suit.
        """

    def official_format(self) -> OfficialFormat | None:
        """Return the checkpoint format of the reference implementation; None where there is none to load."""

    def tuning_cache(self, prediction: Any, sample: Sample) -> TuningCache:
        """Return an image prepared for all inference settings that `evaluate tune` tries.

        Args:
            prediction: of one of the family's models.
            sample: the same image with its ground truth.

        Raises:
            DataError: the ground truth contradicts itself.
        """

    def load_tuning_cache(self, path: Path) -> TuningCache:
        """Read what a `TuningCache` of the family saved.

        Raises:
            DataError: the file is corrupt.
        """


FAMILIES: dict[str, Family] = {PANOPTIC_SEGFORMER: PanopticSegFormerFamily()}


def published_weights() -> Mapping[str, PublishedWeights]:
    """Return all weights that can be downloaded, by name."""
    return {weights.name: weights for family in FAMILIES.values() for weights in family.published}
