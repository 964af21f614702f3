"""Build a K-Net. Only this module converts settings to arguments of layers."""

from __future__ import annotations

from panformer_cli.data.categories import CategoryTable
from panformer_cli.models.backbones.build import build_backbone
from panformer_cli.models.knet.fusion import SemanticFusion
from panformer_cli.models.knet.initial_kernels import InitialKernels
from panformer_cli.models.knet.kernel_update import KernelStage
from panformer_cli.models.knet.model import KNet
from panformer_cli.models.knet.pyramid import FeaturePyramid
from panformer_cli.models.knet.settings import KNetSettings


def build(settings: KNetSettings, categories: CategoryTable) -> KNet:
    """Return a newly initialized model.

    Raises:
        PanformerError: the backbone does not support one of the settings.
    """
    backbone = build_backbone(
        settings.backbone,
        settings.drop_path,
        settings.frozen_stages,
        settings.frozen_batch_norm,
        settings.backbone_normalization,
        has_stride_4=True,
    )
    dim = settings.embed_dim
    return KNet(
        backbone,
        FeaturePyramid(backbone.channels, dim),
        SemanticFusion(dim, levels=len(backbone.channels)),
        InitialKernels(dim, settings.thing_kernels, categories.num_things, categories.num_stuff),
        [KernelStage(dim, settings.heads, settings.feedforward_dim, len(categories)) for _ in range(settings.stages)],
        categories,
    )
