"""From a recipe to a model of its family, with ImageNet weights in the backbone where the recipe asks for them."""

from __future__ import annotations

from panformer_cli.data.categories import CategoryTable
from panformer_cli.models.backbones.pretrained import load_backbone_weights
from panformer_cli.models.base import PanopticModel
from panformer_cli.models.families import FAMILIES
from panformer_cli.models.layers.sampling import SamplingName
from panformer_cli.settings import InferenceSettings, ModelSettings


def build_model(
    settings: ModelSettings,
    inference: InferenceSettings,
    categories: CategoryTable,
    pretrained: bool = True,
    sampling: SamplingName = "auto",
) -> PanopticModel:
    """Return a freshly initialized model for a data set's categories.

    Args:
        settings: the recipe's section `model`, of the class that belongs to its family.
        inference: the recipe's section `inference`, of the same family.
        pretrained: fill the backbone as `settings.backbone_weights` says; False where a checkpoint is loaded anyway.
        sampling: implementation of deformable attention's sampling.

    Raises:
        CheckpointError: the backbone's weights cannot be loaded.
        PanformerError: the backbone does not suit, or the sampling cannot be used here.
    """
    model = FAMILIES[settings.family].build(settings, inference, categories, sampling)
    if pretrained:
        load_backbone_weights(model.backbone, settings.backbone_weights)
    return model
