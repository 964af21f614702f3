"""Build a backbone from its settings."""

from __future__ import annotations

from panformer_cli.errors import PanformerError
from panformer_cli.models.backbones.backbone import Backbone
from panformer_cli.models.backbones.feature_layout import FeatureLayout, feature_layout
from panformer_cli.models.backbones.known import BACKBONES, TIMM, KnownBackbone, is_resnet, published_frozen_stages
from panformer_cli.models.backbones.normalization import Renormalization, pretrained_statistics
from panformer_cli.models.backbones.resnet import ResNet
from panformer_cli.models.backbones.swin import Swin
from panformer_cli.models.backbones.timm_backbone import TimmBackbone
from panformer_cli.settings import BackboneNormalization


def build_backbone(
    name: str,
    drop_path: float,
    frozen_stages: int | None,
    frozen_batch_norm: bool,
    normalization: BackboneNormalization = "imagenet",
) -> Backbone:
    """Return a newly initialized backbone.

    Args:
        name: a key of `BACKBONES`, or `timm/<model>`.
        drop_path: stochastic depth rate of the last block, 0..1.
        frozen_stages: number of ResNet stages, counted from the stem, that are not trained; None as published.
        frozen_batch_norm: use the running statistics of BatchNorm in training, and do not train its affine parameters.
        normalization: statistics of the images that the body gets: ImageNet's, or those of timm's pretrained weights.

    Raises:
        PanformerError: the model is not suitable or does not support one of the settings.
    """
    known = BACKBONES.get(name)
    backbone = _published(name, known, drop_path) if known else _other(name, drop_path)
    count = published_frozen_stages(name) if frozen_stages is None else frozen_stages
    if isinstance(backbone, ResNet):
        backbone.freeze_stages(count)
    elif count:
        raise PanformerError(
            f"model.frozen_stages is {count}, but only published ResNets have stages to freeze, not {name}; set it to 0"
        )
    if normalization == "pretrained":
        backbone.renormalize = Renormalization(pretrained_statistics(name))
    if frozen_batch_norm:
        backbone.freeze_batch_norms()
    return backbone


def _published(name: str, known: KnownBackbone, drop_path: float) -> TimmBackbone:
    if known.architecture.startswith("swin"):
        return Swin(name, known.architecture, known.out_indices, drop_path)
    kind = ResNet if is_resnet(name) else TimmBackbone
    return kind(name, known.architecture, FeatureLayout(known.out_indices), drop_path)


def _other(name: str, drop_path: float) -> TimmBackbone:
    layout = feature_layout(name)
    return TimmBackbone(name, name.removeprefix(TIMM).partition(".")[0], layout, drop_path)
