"""Build the model of a recipe, with pretrained backbone weights if the recipe asks for them."""

from __future__ import annotations

from panformer_cli.data.categories import CategoryTable
from panformer_cli.models.base import PanopticModel
from panformer_cli.models.families import FAMILIES
from panformer_cli.models.layers.sampling import SamplingName
from panformer_cli.reporting import Reporter
from panformer_cli.settings import InferenceSettings, ModelSettings


def build_model(
    settings: ModelSettings,
    inference: InferenceSettings,
    categories: CategoryTable,
    pretrained: bool = True,
    sampling: SamplingName = "auto",
) -> PanopticModel:
    """Return a newly initialized model for the categories of a data set.

    Args:
        settings: the recipe's section `model`.
        inference: the recipe's section `inference`.
        pretrained: load `settings.backbone_weights`, which `fetch_backbone_weights` has downloaded. Pass False if a
            checkpoint is loaded afterwards.
        sampling: implementation of the sampling of deformable attention.

    Raises:
        CheckpointError: the backbone weights cannot be loaded.
        PanformerError: the backbone is not suitable, or this sampling cannot be used on this machine.
    """
    model = FAMILIES[settings.family].build(settings, inference, categories, sampling)
    if pretrained:
        from panformer_cli.models.backbones.pretrained import load_backbone_weights  # imports timm, which is slow

        load_backbone_weights(model.backbone, settings.backbone_weights)
    return model


def fetch_backbone_weights(settings: ModelSettings, reporter: Reporter) -> None:
    """Download `settings.backbone_weights` for `build_model` if necessary; report a license of their own before.

    Raises:
        CheckpointError: the weights cannot be downloaded; the message says where to put the file.
    """
    if settings.backbone_weights == "imagenet":
        from panformer_cli.models.backbones.timm_weights import fetch_weights  # imports timm, which is slow

        fetch_weights(settings.backbone, reporter)
