"""Box operations, compared with torchvision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from panformer_cli.models.layers.boxes import cxcywh_to_xyxy, generalized_iou, xyxy_to_cxcywh


def boxes(count: int, seed: int) -> Tensor:
    """Return x1, y1, x2, y2 within 0..100: disjoint, overlapping and nested boxes."""
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 100
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


def test_conversions_equal_torchvision_and_round_trip() -> None:
    corners = boxes(50, seed=0)
    centers = xyxy_to_cxcywh(corners)
    torch.testing.assert_close(centers, box_convert(corners, "xyxy", "cxcywh"))
    torch.testing.assert_close(cxcywh_to_xyxy(centers), box_convert(centers, "cxcywh", "xyxy"))
    torch.testing.assert_close(cxcywh_to_xyxy(centers), corners)


def test_giou_equals_torchvision() -> None:
    a, b = boxes(40, seed=1), boxes(30, seed=2)
    expected = generalized_box_iou(a, b)
    assert expected.min() < -0.3
    assert expected.max() > 0.5
    torch.testing.assert_close(generalized_iou(a[:, None], b), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(generalized_iou(a[:30], b), expected[:30].diagonal(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1.0),
        ((0, 0, 2, 2), (1, 0, 3, 2), 2 / 6),  # the hull is the union
        ((0, 0, 1, 1), (2, 0, 3, 1), 0 - 1 / 3),  # a gap of a third of the hull
        ((0, 0, 1, 1), (1, 1, 2, 2), 0 - 2 / 4),  # corner to corner
        ((0, 0, 4, 4), (1, 1, 3, 3), 4 / 16),
    ],
)
def test_giou_by_hand(a: tuple[int, ...], b: tuple[int, ...], expected: float) -> None:
    first, second = torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.float32)
    assert float(generalized_iou(first, second)) == pytest.approx(expected, abs=1e-6)
    assert float(generalized_iou(second, first)) == pytest.approx(expected, abs=1e-6)


def test_empty_boxes_are_finite_in_values_and_gradients() -> None:
    point = torch.zeros(4, requires_grad=True)
    for other in (torch.zeros(4), torch.tensor([1.0, 1.0, 2.0, 2.0])):
        overlap = generalized_iou(point, other)
        (gradient,) = torch.autograd.grad(overlap, point)
        assert overlap.isfinite()
        assert -1 <= overlap <= 1
        assert gradient.isfinite().all()
