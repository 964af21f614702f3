"""The official models of K-Net with synthetic weights, with which the recordings were made; see README.md."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.models.knet.build import build
from panformer_cli.models.knet.model import KNet
from panformer_cli.models.knet.official.names import from_official
from panformer_cli.models.knet.settings import KNetSettings
from tests.golden.release import DATA, Numbers


@dataclass(frozen=True)
class KNetVariant:
    """A published model (docs/knet.md, "Published results").

    Attributes:
        backbone: value of `model.backbone`.
        parameters: number of parameters.
        salt: part of the seed of every synthetic tensor.
    """

    backbone: str
    parameters: int
    salt: str


KNET_VARIANTS = {
    "r50": KNetVariant("resnet50", 37_536_852, "k2"),
    "r101": KNetVariant("resnet101", 56_528_980, "k6"),
    "swinl": KNetVariant("swin_large", 208_781_224, "k2"),
}


def knet_keys(variant: str) -> list[tuple[str, list[int], str]]:
    """Return name, shape and dtype of every tensor in an official checkpoint."""
    rows: list[tuple[str, list[int], str]] = json.loads((DATA / f"keys_knet_{variant}.json").read_text())
    return rows


def unfilled_knet(variant: str) -> KNet:
    """Return a newly initialized published model."""
    return build(KNetSettings(backbone=KNET_VARIANTS[variant].backbone), COCO)


def filled_knet(variant: str) -> KNet:
    """Return a published model with the weights of the recordings, in evaluation mode."""
    model = unfilled_knet(variant)
    missing, unexpected = model.load_state_dict(from_official(knet_state(variant)), strict=False)
    assert not unexpected, unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return model.eval()


def knet_state(variant: str) -> dict[str, Tensor]:
    """Return a synthetic state dict in the official format. Counters and index tables are 0."""
    salt = KNET_VARIANTS[variant].salt
    return {
        name: torch.from_numpy(knet_tensor(name, tuple(shape), salt))
        if kind == "float32"
        else torch.zeros(shape, dtype=torch.int64)
        for name, shape, kind in knet_keys(variant)
    }


def knet_tensor(name: str, shape: tuple[int, ...], salt: str) -> npt.NDArray[np.float32]:
    """Return a tensor generated from its official name, scaled so that panoptic maps contain several segments."""
    seed = int.from_bytes(hashlib.sha256((salt + name).encode()).digest()[:8], "little")
    normal = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
    if name.endswith(".running_mean"):
        values = 0.1 * normal
    elif name.endswith(".running_var"):
        values = 1.0 + 0.1 * np.abs(normal)
    elif len(shape) >= 2:
        values = _matrix(name, normal)
    elif name.endswith(".weight"):  # of a norm
        values = 1.0 + 0.1 * normal
    else:
        values = _bias(name, normal)
    return np.asarray(values, np.float32)


_CENTERED = ("feat_transform", "dynamic_layer", "fc_mask", "fc_cls")
"""Layers of the stages whose inputs have a large mean in common: their rows sum to 0."""


def _matrix(name: str, normal: Numbers) -> Numbers:
    values: Numbers = normal / np.sqrt(np.prod(normal.shape[1:], dtype=np.float64))
    in_stages = name.startswith("roi_head.")
    is_centered = any(part in name for part in _CENTERED) if in_stages else not name.startswith("backbone.")
    if name.endswith(".weight") and is_centered:
        means = values.reshape(len(values), -1).mean(axis=1)
        values = values - means.reshape(-1, *[1] * (values.ndim - 1))
    if name == "rpn_head.init_kernels.weight":
        values = 2.0 * values - 0.02
    elif in_stages and name.endswith(("out_proj.weight", "ffn.layers.1.weight")):
        values = 0.3 * values
    elif name.endswith("fc_mask.weight"):
        values = 0.5 * values
    return values


def _bias(name: str, normal: Numbers) -> Numbers:
    if "feat_transform" in name:
        return -0.12 + 0.05 * normal
    if name.endswith("fc_mask.bias"):
        return 0.3 + 0.05 * normal
    if name.endswith("fc_cls.bias"):
        values: Numbers = -2.2 + 0.1 * normal
        values[COCO.num_things :] += 1.0
        return values
    if name == "rpn_head.conv_seg.bias":
        return -1.0 + 0.1 * normal
    return (0.05 if name.startswith("roi_head.") else 0.1) * normal
