"""The model families, by the value of `model.family` in a recipe. torch is imported only when a model is built.

To add a family, write its folder (`models/<family>/` with a `family.py`) and add an entry to `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from panformer_cli.models.hugging_face.family import HuggingFaceFamily
from panformer_cli.models.hugging_face.settings import FAMILY as HUGGING_FACE
from panformer_cli.models.knet.family import KNetFamily
from panformer_cli.models.knet.settings import FAMILY as KNET
from panformer_cli.models.panoptic_segformer.family import PanopticSegFormerFamily
from panformer_cli.models.panoptic_segformer.settings import FAMILY as PANOPTIC_SEGFORMER
from panformer_cli.settings import InferenceSettings, ModelSettings

if TYPE_CHECKING:
    from panformer_cli.data.categories import CategoryTable
    from panformer_cli.data.structures import Sample
    from panformer_cli.models.base import PanopticModel, TuningCache
    from panformer_cli.models.hugging_face.folder import HuggingFaceFolder
    from panformer_cli.models.layers.sampling import SamplingName
    from panformer_cli.models.official import OfficialFormat
    from panformer_cli.models.published import PublishedWeights

DEFAULT_FAMILY = PANOPTIC_SEGFORMER
"""Family of recipes and checkpoints that do not name one."""


class Family(Protocol):
    """The interface of a model family before one of its models is built.

    Attributes:
        model_settings: class of the recipe's section `model`.
        inference_settings: class of the recipe's section `inference`.
        published: weights that can be downloaded, in the order of `panformer weights list`.
        trainable: whether its models can be trained. Otherwise the family is inference only: nothing calls `forward`,
            `parameter_groups` or `class_rows` of its models.
    """

    @property
    def model_settings(self) -> Callable[..., ModelSettings]: ...

    @property
    def inference_settings(self) -> Callable[..., InferenceSettings]: ...

    @property
    def published(self) -> tuple[PublishedWeights, ...]: ...

    @property
    def trainable(self) -> bool: ...

    def build(self, model: Any, inference: Any, categories: CategoryTable, sampling: SamplingName) -> PanopticModel:
        """Return a newly initialized model. Its backbone is random too.

        Args:
            model: the family's model settings.
            inference: the family's inference settings, for those that the network itself needs.
            categories: category table of the data set.
            sampling: implementation of the sampling of deformable attention. Families without it ignore this.

        Raises:
            PanformerError: the backbone does not exist or is not suitable.
        """

    def official_format(self) -> OfficialFormat | None:
        """Return the checkpoint format of the reference implementation; None if there is no such format."""

    def tuning_cache(self, prediction: Any, sample: Sample) -> TuningCache:
        """Return an image, cached for all inference settings that `evaluate tune` tries.

        Args:
            prediction: prediction of one of the family's models.
            sample: the same image with its ground truth.

        Raises:
            DataError: the ground truth is inconsistent.
        """

    def load_tuning_cache(self, path: Path) -> TuningCache:
        """Read a file that a `TuningCache` of the family saved.

        Raises:
            DataError: the file is corrupt.
        """


FAMILIES: dict[str, Family] = {
    PANOPTIC_SEGFORMER: PanopticSegFormerFamily(),
    KNET: KNetFamily(),
    HUGGING_FACE: HuggingFaceFamily(),
}


def published_weights() -> Mapping[str, PublishedWeights]:
    """Return all weights that can be downloaded, by name."""
    return {weights.name: weights for family in FAMILIES.values() for weights in family.published}


def read_saved_folder(
    folder: Path, categories: CategoryTable | None = None, label_map: Mapping[str, int] | None = None
) -> HuggingFaceFolder:
    """Return the model in a folder that Hugging Face's transformers saved; its `load` gives the model with weights.

    Args:
        folder: with `config.json`, safetensors, and possibly `preprocessor_config.json`.
        categories: category table of the data set that the results are for; None for that of the checkpoint.
        label_map: category id by label (as text) or name, which decides instead of names.

    Raises:
        CheckpointError: a file is missing, corrupt or of a model that is not supported.
        DataError: the labels do not match the categories, or the label map is wrong.
    """
    from panformer_cli.models.hugging_face.folder import read_folder

    return read_folder(folder, categories, label_map)


def check_saved_config(folder: Path) -> None:
    """Check, from the config.json of a folder alone, that its model is supported.

    Raises:
        CheckpointError: the file is missing or corrupt, or its model is not supported.
    """
    from panformer_cli.models.hugging_face.folder import check_config

    check_config(folder)
