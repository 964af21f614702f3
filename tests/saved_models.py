"""Tiny models of transformers with random weights, in folders as transformers saves them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

COCO_LABELS = {label: f"LABEL_{label}" for label in range(133)}
"""The names that transformers gives labels without names."""


def save_tiny(folder: Path, architecture: str = "eomt", names: Mapping[int, str] = COCO_LABELS, **changes: Any) -> Path:
    """Write a tiny model with random weights, whose class logits are so far apart that it finds segments.

    Args:
        folder: a new folder.
        architecture: `eomt`, which is quickest, or `mask2former`.
        names: name of each label.
        changes: settings of the config.
    """
    transformers = pytest.importorskip("transformers", reason="needs transformers (pip install 'panformer[hf]')")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = (_eomt if architecture == "eomt" else _mask2former)(transformers, dict(names), changes)
    with torch.no_grad():
        network.class_predictor.weight.normal_().mul_(4)
        last = (
            network.mask_head.fc3
            if architecture == "eomt"
            else network.model.pixel_level_module.decoder.mask_projection
        )
        last.weight.mul_(50)
    transformers.utils.logging.disable_progress_bar()
    network.save_pretrained(folder)
    return folder


def _eomt(transformers: Any, names: dict[int, str], changes: Mapping[str, Any]) -> Any:
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_blocks": 2, "num_queries": 3}
    input_sizes = {"image_size": 64, "patch_size": 16, "num_register_tokens": 2}
    config = transformers.EomtConfig(**{**sizes, **input_sizes, "id2label": names, **changes})
    return transformers.EomtForUniversalSegmentation(config)


def _mask2former(transformers: Any, names: dict[int, str], changes: Mapping[str, Any]) -> Any:
    stages: Sequence[str] = ["stage1", "stage2", "stage3", "stage4"]
    swin = transformers.SwinConfig(
        image_size=64, embed_dim=16, depths=[1] * 4, num_heads=[1, 2, 4, 8], window_size=4, out_features=stages
    )
    sizes = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 64}
    layers = {"dim_feedforward": 64, "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 4}
    settings = {**sizes, **layers, "num_queries": 3, "id2label": names, **changes}
    config = transformers.Mask2FormerConfig(backbone_config=swin, **settings)
    return transformers.Mask2FormerForUniversalSegmentation(config)
