"""Tiny models of transformers with synthetic weights, with which the recordings `hf_*` were made; see README.md."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.models.hugging_face.architectures import ARCHITECTURES, ArchitectureName

CLASS_HEADS = ("class_predictor.weight", "class_embed.weight", "class_labels_classifier.weight")
QUERIES = (
    "queries_features.weight",
    "queries_embedder.weight",
    "query.weight",
    "query_position_embeddings.weight",
    "level_embed.weight",
    "cls_token",
    "register_tokens",
)
MASK_HEADS = ("mask_embedder.2.0", "mask_embed.layers.2.0", "mask_head.fc3")
"""Last layers of the mask embedding."""
PIXEL_BIASES = ("mask_projection.bias", "upscale_block.block.1.layernorm2d.bias")
"""Biases of the pixel features. Channel 0 of them and of the mask embedding moves all mask logits by `-shift`."""
KEPT = ("num_batches_tracked", "relative_position_index", "position_ids")
"""Buffers that keep the values of the constructor."""


@dataclass(frozen=True)
class Filling:
    """What the synthetic weights depend on, besides their names and shapes."""

    salt: str = "h"
    class_gain: float = 8.0
    mask_gain: float = 1.0
    shift: float = 0.0

    def fill(self, network: nn.Module) -> Any:
        """Fill a network in place, and return it in evaluation mode."""
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                if tensor.is_floating_point() and not name.endswith(KEPT):
                    tensor.copy_(torch.from_numpy(self.values(name, tuple(tensor.shape)).astype(np.float32)))
        return network.eval()

    def values(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Return the values of a tensor; the first rule that applies to its name counts."""
        seed = int.from_bytes(hashlib.sha256(f"{self.salt}/{name}".encode()).digest()[:8], "little")
        noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
        leaf = name.rpartition(".")[2]
        per_output = math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 1.0
        fixed = {
            "attn_mask_probs": 0 * noise,
            "running_mean": 0.1 * noise,
            "running_var": 1 + 0.1 * np.abs(noise),
            "logit_scale": 0 * noise + 1,
            "lambda1": 0.5 + 0.05 * noise,
            "lambda2": 0.5 + 0.05 * noise,
        }
        if leaf in fixed:
            return np.asarray(fixed[leaf])
        if name.endswith(QUERIES):
            return (3.0 if name.startswith("detr.") else 1.0) * noise
        if name.endswith(CLASS_HEADS):
            return self.class_gain * noise / math.sqrt(shape[-1])
        if name.endswith(tuple(f"{head}.weight" for head in MASK_HEADS)) or name == "mask_head.output_conv.weight":
            return self.mask_gain * noise / per_output
        is_mask_bias = name.endswith(tuple(f"{head}.bias" for head in MASK_HEADS))
        if is_mask_bias or name.endswith(PIXEL_BIASES):
            values = 0.1 * noise
            values[0] = -self.shift / 2 if is_mask_bias else 2.0
            return np.asarray(values)
        if name == "bbox_attention.q_proj.weight":
            return 8.0 * noise / per_output
        if len(shape) > 1:
            return noise / per_output
        if leaf == "weight":
            return 1 + 0.1 * noise
        return (2.0 if "sampling_offsets" in name else 0.1) * noise


def tiny_network(name: ArchitectureName, num_labels: int = 133, **config: Any) -> Any:
    """Return a tiny network of transformers with random weights; DETR has 250 labels unless `config` has others."""
    transformers = pytest.importorskip("transformers", reason="needs panformer[hf]")
    sizes = {**_sizes(name, transformers), "num_labels": 250 if name == "detr" else num_labels, **config}
    network = getattr(transformers, ARCHITECTURES[name].network)
    return network(network.config_class(**sizes))


def _sizes(name: ArchitectureName, transformers: Any) -> dict[str, Any]:
    vit = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 128,
        "patch_size": 16,
        "num_blocks": 2,
        "num_queries": 20,
        "num_register_tokens": 2,
    }
    detr = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_queries": 20}
    decoder = {
        "hidden_dim": 32,
        "encoder_feedforward_dim": 64,
        "dim_feedforward": 64,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "num_attention_heads": 4,
        "num_queries": 20,
    }
    stages = [f"stage{number}" for number in range(1, 5)]
    swin = transformers.SwinConfig(
        image_size=64,
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 4, 8],
        window_size=4,
        drop_path_rate=0.0,
        out_features=stages,
    )
    if name == "maskformer":
        heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
        inner = transformers.DetrConfig(d_model=32, backbone_config=transformers.ResNetConfig(), **detr, **heads)
        return {"backbone_config": swin, "fpn_feature_size": 32, "mask_feature_size": 32, "decoder_config": inner}
    if name == "mask2former":
        return {"backbone_config": swin, "feature_size": 32, "mask_feature_size": 32, **decoder}
    if name == "oneformer":
        text = {"width": 32, "num_layers": 1, "vocab_size": 64, "n_ctx": 4}
        encoder = {f"text_encoder_{key}": value for key, value in text.items()}
        return {"backbone_config": swin, "conv_dim": 32, "mask_dim": 32, "query_dec_layers": 1, **encoder, **decoder}
    if name == "eomt":
        return vit
    if name == "eomt_dinov3":
        return {**vit, "intermediate_size": 64}
    resnet = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], layer_type="basic", out_features=stages
    )
    heads = {"encoder_attention_heads": 8, "decoder_attention_heads": 8}
    return {"backbone_config": resnet, "d_model": 128, **detr, **heads}


def table_of(num_labels: int, num_things: int) -> CategoryTable:
    """Return a table in which label and category id are the same."""
    return CategoryTable(Category(label, f"class {label}", label < num_things) for label in range(num_labels))
