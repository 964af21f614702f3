"""Build a backbone from its settings."""

from __future__ import annotations

from panformer_cli.errors import PanformerError
from panformer_cli.models.backbones.backbone import FINE_STRIDES, Backbone
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
    has_stride_4: bool = False,
) -> Backbone:
    """Return a newly initialized backbone.

    Args:
        name: a key of `BACKBONES`, or `timm/<model>`.
        drop_path: stochastic depth rate of the last block, 0..1.
        frozen_stages: number of ResNet stages, counted from the stem, that are not trained; None as published.
        frozen_batch_norm: use the running statistics of BatchNorm in training, and do not train its affine parameters.
        normalization: statistics of the images that the body gets: ImageNet's, or those of timm's pretrained weights.
        has_stride_4: return C2 too; only for a key of `BACKBONES`.

    Raises:
        PanformerError: the model is not suitable or does not support one of the settings.
    """
    known = BACKBONES.get(name)
    assert known or not has_stride_4, "only published backbones are known to have C2"
    backbone = _published(name, known, drop_path, has_stride_4) if known else _other(name, drop_path)
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


def _published(name: str, known: KnownBackbone, drop_path: float, has_stride_4: bool) -> TimmBackbone:
    indices = (known.out_indices[0] - 1, *known.out_indices) if has_stride_4 else known.out_indices
    if known.architecture.startswith("swin"):
        backbone: TimmBackbone = Swin(name, known.architecture, indices, drop_path)
    else:
        kind = ResNet if is_resnet(name) else TimmBackbone
        backbone = kind(name, known.architecture, FeatureLayout(indices), drop_path)
    if has_stride_4:
        backbone.strides = FINE_STRIDES
    return backbone


def _other(name: str, drop_path: float) -> TimmBackbone:
    layout = feature_layout(name)
    return TimmBackbone(name, name.removeprefix(TIMM).partition(".")[0], layout, drop_path)
