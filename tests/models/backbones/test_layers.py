"""The layers of backbones, compared with the order in which their modules run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from panformer_cli.errors import PanformerError
from panformer_cli.models.backbones.backbone import Backbone
from panformer_cli.models.backbones.build import build_backbone
from panformer_cli.models.backbones.layers import layers_in_timm, parameter_layers

FAMILIES = [
    ("resnet18", "conv1", "layer4.1.", 9),
    ("resnet50", "conv1", "layer4.2.", 17),
    ("pvt_v2_b0", "patch_embed", "stages_3.blocks.1.", 5),
    ("swin_tiny", "patch_embed", "layers_3.blocks.1.", 13),
    ("timm/convnext_tiny", "stem_0", "stages_3.blocks.2.", 19),
    ("timm/swinv2_cr_tiny_ns_224", "patch_embed", "stages_3.blocks.1.", 13),
    ("timm/tf_efficientnet_lite0", "conv_stem", "blocks.6.0.", 17),
]
"""Backbone, name of the stem, of the last block, and number of layers: the stem and the blocks (PVTv2: the stages)."""


def on_meta(name: str) -> Backbone:
    with torch.device("meta"):
        return build_backbone(name, 0.0, 0, frozen_batch_norm=False)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stem", "last", "count"), FAMILIES)
def test_layers_are_numbered_from_the_stem_to_the_last_block(name: str, stem: str, last: str, count: int) -> None:
    backbone = on_meta(name)
    layers = parameter_layers(backbone)
    assert set(layers) == {parameter for parameter, _ in backbone.named_parameters()}
    assert set(layers.values()) == set(range(count))
    assert {number for parameter, number in layers.items() if parameter.startswith(f"body.{stem}")} == {0}
    assert {number for parameter, number in layers.items() if parameter.startswith(f"body.{last}")} == {count - 1}


@pytest.mark.slow
def test_layers_never_decrease_in_the_order_of_a_sequential_backbone() -> None:
    for name in ("resnet50", "swin_tiny", "timm/convnext_tiny"):
        numbers = list(parameter_layers(on_meta(name)).values())
        assert numbers == sorted(numbers), name


@pytest.mark.slow
def test_embeddings_belong_to_the_stem_and_norms_of_feature_maps_to_the_last_layer() -> None:
    vit = layers_in_timm("vit_small_patch14_reg4_dinov2")
    assert {vit[name] for name in ("cls_token", "reg_token", "pos_embed", "patch_embed.proj.weight")} == {0}
    assert vit["blocks.0.norm1.weight"] == 1 and vit["blocks.11.ls1.gamma"] == 12
    swin = parameter_layers(on_meta("swin_tiny"))
    assert swin["norms.0.weight"] == swin["norms.2.bias"] == 12
    assert swin["body.layers_0.blocks.1.attn.relative_position_bias_table"] == 2


@pytest.mark.slow
def test_a_model_without_layers_in_timm_is_rejected() -> None:
    with pytest.raises(PanformerError, match=r"train.layer_decay is set, but the layers of .* are unknown; set it to"):
        parameter_layers(on_meta("timm/caformer_s18"))


def test_a_backbone_of_another_kind_is_rejected() -> None:
    class Own(Backbone):
        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [images]

    with pytest.raises(PanformerError, match="the layers of the backbone own are unknown"):
        parameter_layers(Own("own", nn.Sequential(nn.Conv2d(3, 3, 1)), [3, 3, 3]))
