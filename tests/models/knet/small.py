"""A complete K-Net that is small enough for tests."""

from __future__ import annotations

from dataclasses import replace

import torch

from panformer_cli.models.knet.build import build
from panformer_cli.models.knet.model import KNet
from panformer_cli.models.knet.settings import KNetSettings
from tests.models.panoptic_segformer.small import table

SMALL_KNET = KNetSettings(
    backbone="resnet18",
    backbone_weights="none",
    frozen_stages=0,
    embed_dim=32,
    heads=4,
    feedforward_dim=48,
    stages=2,
    thing_kernels=7,
)


def small_knet(things: int = 3, stuff: int = 2, seed: int = 0, **changes: object) -> KNet:
    """Return a model with random weights; `changes` are fields of `KNetSettings`."""
    torch.manual_seed(seed)
    return build(replace(SMALL_KNET, **changes), table(things, stuff)).eval()  # type: ignore[arg-type]
