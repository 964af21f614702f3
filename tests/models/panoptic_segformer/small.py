"""A complete Panoptic SegFormer that is small enough for tests, and synthetic targets for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.structures import Targets
from panformer_cli.models.layers.sampling import SamplingName
from panformer_cli.models.panoptic_segformer.build import build
from panformer_cli.models.panoptic_segformer.model import PanopticSegFormer
from panformer_cli.models.panoptic_segformer.settings import MergingSettings, PanopticSegFormerSettings

SMALL = PanopticSegFormerSettings(
    backbone="resnet18",
    backbone_weights="none",
    frozen_stages=0,
    embed_dim=32,
    heads=4,
    feedforward_dim=48,
    points=2,
    encoder_layers=1,
    location_layers=2,
    thing_mask_layers=1,
    stuff_mask_layers=2,
    thing_queries=7,
    dropout=0.0,
    mask_bias=0.5,
    mask_waking_slope=0.1,
)


def table(things: int, stuff: int) -> CategoryTable:
    """Return categories with dataset ids 10, 11, ... (things) and 3, 4, ... (stuff)."""
    rows = [Category(10 + number, f"thing {number}", True) for number in range(things)]
    rows += [Category(3 + number, f"stuff {number}", False) for number in range(stuff)]
    return CategoryTable(rows)


def small_model(
    things: int = 3, stuff: int = 2, seed: int = 0, top_k: int = 100, sampling: SamplingName = "auto", **changes: object
) -> PanopticSegFormer:
    """Return a model with random weights; `changes` are fields of `PanopticSegFormerSettings`."""
    torch.manual_seed(seed)
    settings = replace(SMALL, **changes)  # type: ignore[arg-type]
    return build(settings, MergingSettings(top_k=top_k), table(things, stuff), sampling)


def scramble(module: torch.nn.Module, seed: int = 1) -> None:
    """Add noise to all parameters, so that initial zeros and equal values do not cancel by symmetry."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan_in = parameter.shape[1:].numel() if parameter.dim() > 1 else 100
            parameter.add_(noise / math.sqrt(max(fan_in, 1)))


def images_of(count: int, size: tuple[int, int], seed: int = 2) -> Tensor:
    """Return normal noise, (count, 3, *size)."""
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def naming(name: str) -> Callable[[str], str]:
    """Return a `msg` for `assert_close` that names the comparison that failed."""
    return lambda text: f"{name}: {text}"


def no_padding(images: Tensor) -> Tensor:
    return torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)


def targets_of(size: tuple[int, int], *segments: tuple[int, tuple[int, int, int, int]]) -> Targets:
    """Return filled rectangles as targets, each given as (label, (x1, y1, x2, y2))."""
    masks = torch.zeros(len(segments), *size, dtype=torch.bool)
    for mask, (_, (left, top, right, bottom)) in zip(masks, segments, strict=True):
        mask[top:bottom, left:right] = True
    labels = torch.tensor([label for label, _ in segments], dtype=torch.int64)
    boxes = torch.tensor([box for _, box in segments], dtype=torch.float32).reshape(-1, 4)
    return Targets(labels, boxes, masks)
