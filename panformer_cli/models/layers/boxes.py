"""Box operations on tensors whose last dimension is 4."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert boxes from cx, cy, w, h to x1, y1, x2, y2."""
    center, size = boxes.split(2, dim=-1)
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert boxes from x1, y1, x2, y2 to cx, cy, w, h."""
    low, high = boxes.split(2, dim=-1)
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the GIoU, -1..1, of boxes x1, y1, x2, y2 (Rezatofighi et al. 2019, algorithm 1).

    Args:
        a: (..., 4). Empty boxes do not cause a division by zero.
        b: (..., 4), broadcast against `a`.
    """
    union, overlap = _union_and_overlap(a, b)
    low = torch.minimum(a[..., :2], b[..., :2])
    high = torch.maximum(a[..., 2:], b[..., 2:])
    hull = (high - low).clamp(min=0).prod(-1).clamp(min=EPS)
    return overlap / union - (hull - union) / hull


def _union_and_overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    union = _area(a) + _area(b) - overlap
    return union.clamp(min=EPS), overlap


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)
