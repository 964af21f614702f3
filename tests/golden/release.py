"""The four official models with synthetic weights, with which the recordings were made; see README.md."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.models.panoptic_segformer.build import build
from panformer_cli.models.panoptic_segformer.model import PanopticSegFormer
from panformer_cli.models.panoptic_segformer.official.names import from_official
from panformer_cli.models.panoptic_segformer.settings import MergingSettings, PanopticSegFormerSettings

Numbers = npt.NDArray[Any]

DATA = Path(__file__).parent / "data"
THINGS, STUFF = 80, 53
COCO_SIZED = CategoryTable(
    [Category(1 + label, f"thing {label}", True) for label in range(THINGS)]
    + [Category(101 + label, f"stuff {label}", False) for label in range(STUFF)]
)
"""As many categories as COCO has, with synthetic ids."""


@dataclass(frozen=True)
class Variant:
    """A published model (docs/model.md, "Published results").

    Attributes:
        backbone: value of `model.backbone`.
        frozen_stages: number of frozen backbone stages.
        parameters: number of parameters, including unused branches.
        trainable: number of trained parameters; None if all are trained.
        salt: part of the seed of every synthetic tensor.
    """

    backbone: str
    frozen_stages: int
    parameters: int
    trainable: int | None
    salt: str = "d"


VARIANTS = {
    "r50": Variant("resnet50", 2, 51_271_900, 50_996_380),
    "r101": Variant("resnet101", 2, 70_264_028, 69_936_284),
    "pvtv2b5": Variant("pvt_v2_b5", 0, 104_996_188, None, salt="p12"),
    "swinl": Variant("swin_large", 0, 221_352_624, None),
}


def release_keys(variant: str) -> list[tuple[str, list[int], str]]:
    """Return name, shape and dtype of every tensor in an official checkpoint."""
    rows: list[tuple[str, list[int], str]] = json.loads((DATA / f"keys_{variant}.json").read_text())
    return rows


def unfilled_model(variant: str) -> PanopticSegFormer:
    """Return a newly initialized published model without dropout."""
    settings = PanopticSegFormerSettings(
        backbone=VARIANTS[variant].backbone, frozen_stages=VARIANTS[variant].frozen_stages, dropout=0.0
    )
    return build(settings, MergingSettings(), COCO_SIZED, "auto")


def filled_model(variant: str, train: bool) -> PanopticSegFormer:
    """Return a published model with the weights of the recordings of inference, or of training."""
    model = unfilled_model(variant)
    missing, unexpected = model.load_state_dict(from_official(release_state(variant, train)), strict=False)
    assert not unexpected, unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return model.train(train)


def release_state(variant: str, train: bool) -> dict[str, Tensor]:
    """Return a synthetic state dict in the official format. Counters and index tables are 0."""
    state = {}
    for name, shape, kind in release_keys(variant):
        if kind == "float32":
            state[name] = torch.from_numpy(made_up(name, tuple(shape), VARIANTS[variant].salt, train))
        else:
            state[name] = torch.zeros(shape, dtype=torch.int64)
    return state


EMBEDDINGS = ("query_embedding.weight", "stuff_query.weight", "level_embeds")
END_OF_BRANCH = (
    *("output_proj.weight", "out_proj.weight", "ffns.0.layers.1.weight"),
    *("attn.proj.weight", "self_attention.proj.weight", "mlp.fc2.weight"),
)
MASK_QUERY_AND_KEY = ("attn.q.weight", "attn.k.weight", "attnen.q.weight", "attnen.k.weight")


def made_up(name: str, shape: tuple[int, ...], salt: str, train: bool) -> npt.NDArray[np.float32]:
    """Return a tensor generated from its official name, scaled so that panoptic maps contain several segments.

    Training uses other biases for masks and classes, so that few ReLUs are dead and the class loss does not dominate.
    """
    seed = int.from_bytes(hashlib.sha256((salt + name).encode()).digest()[:8], "little")
    normal = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
    if name.endswith("running_mean"):
        values = 0.1 * normal
    elif name.endswith("running_var"):
        values = 1.0 + 0.1 * np.abs(normal)
    elif name.endswith(EMBEDDINGS):
        values = normal
    elif len(shape) >= 2:
        values = _matrix(name, normal)
    elif name.endswith(".weight"):  # of a norm
        values = 1.0 + 0.1 * normal
    else:
        values = _bias(name, normal, train)
    return np.asarray(values, np.float32)


def _matrix(name: str, normal: Numbers) -> Numbers:
    values: Numbers = normal / np.sqrt(np.prod(normal.shape[1:], dtype=np.float64))
    in_mask_decoder = "_mask_head." in name
    if name.startswith("neck."):
        rows = values.reshape(len(values), -1)
        values = (rows - rows.mean(axis=1, keepdims=True)).reshape(values.shape)
    elif name.startswith("bbox_head.") and name.endswith(END_OF_BRANCH):
        values = 0.1 * values
    elif in_mask_decoder and name.endswith(MASK_QUERY_AND_KEY):
        values = (3.5 if ".stuff_mask_head." in name else 3.0) * values
    elif in_mask_decoder and name.endswith(".linear.0.weight"):
        values = -0.2 * np.abs(values)
    return values


def _bias(name: str, normal: Numbers, train: bool) -> Numbers:
    if "_mask_head." in name and name.endswith(".linear.0.bias"):
        center, spread = (4.0 if train else 2.0 if ".stuff_mask_head." in name else 1.6), 0.1
    elif "bbox_head.cls_branches." in name:
        center, spread = (-4.0 if train else -0.5), 0.1
    elif "sampling_offsets" in name:
        center, spread = 0.0, 2.0
    else:
        center, spread = 0.0, (0.05 if name.startswith("bbox_head.") else 0.1)
    values: Numbers = center + spread * normal
    return values
