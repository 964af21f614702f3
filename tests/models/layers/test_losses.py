"""The loss functions, compared with torchvision and with hand-computed values."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from panformer_cli.models.layers.losses import dice_loss, focal_loss, resize_masks


def test_focal_loss_equals_torchvision_in_values_and_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(6, 11, generator=generator) * 4).requires_grad_()
    targets = (torch.rand(6, 11, generator=generator) < 0.3).float()
    ours, theirs = focal_loss(logits, targets), sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    (mine,), (other,) = (torch.autograd.grad(loss.sum(), [logits]) for loss in (ours, theirs))
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_focal_loss_is_finite_for_extreme_logits() -> None:
    logits = torch.tensor([-200.0, 200.0, -200.0, 200.0], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0.0, 1.0, 1.0, 0.0]))
    torch.testing.assert_close(loss, torch.tensor([0.0, 0.0, 0.25 * 200, 0.75 * 200]))
    (gradient,) = torch.autograd.grad(loss.sum(), [logits])
    assert gradient.isfinite().all()


def test_dice_loss_by_hand() -> None:
    # Mask 1: p = (1, 0.5, 0, 0), t = (1, 1, 0, 0): 1 - 2 * 1.5 / (1.25 + 2). Mask 2: nothing in common.
    masks = torch.tensor([[[1.0, 0.5], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]])
    targets = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(dice_loss(masks, targets), torch.tensor([1 - 3 / 3.25, 1.0]), rtol=0, atol=1e-5)


def test_dice_loss_is_zero_for_a_perfect_mask_and_one_for_two_empty_ones() -> None:
    mask = (torch.rand(1, 8, 9, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    assert float(dice_loss(mask, mask)) == pytest.approx(0, abs=1e-6)
    # As published: eps is only in the denominator, so an empty mask with an empty target has loss 1.
    assert float(dice_loss(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))) == 1.0


def test_dice_loss_of_several_layers_equals_that_of_each_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    masks, targets = torch.rand(3, 2, 4, 5, generator=generator), torch.rand(2, 4, 5, generator=generator)
    together = dice_loss(masks, targets)
    assert together.shape == (3, 2)
    for layer in range(3):
        for n in range(2):
            p, t = masks[layer, n], targets[n]
            expected = 1 - 2 * (p * t).sum() / ((p * p).sum() + (t * t).sum() + 2e-6)
            torch.testing.assert_close(together[layer, n], expected)


def test_resize_is_bilinear_for_any_leading_shape() -> None:
    masks = torch.rand(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    resized = resize_masks(masks, (8, 10))
    expected = F.interpolate(masks, size=(8, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resized, expected)
    torch.testing.assert_close(resize_masks(masks[0], (8, 10)), expected[0])
    # One row by hand: cell centers at 0.5 and 1.5 of two cells, sampled at 0.25, 0.75, 1.25, 1.75.
    row = resize_masks(torch.tensor([[[0.0, 1.0]]]), (1, 4))
    torch.testing.assert_close(row, torch.tensor([[[0.0, 0.25, 0.75, 1.0]]]))


def test_resizing_no_masks_keeps_the_gradient() -> None:
    empty = torch.zeros(3, 0, 4, 5, requires_grad=True)
    resized = resize_masks(empty, (8, 10))
    assert resized.shape == (3, 0, 8, 10)
    resized.sum().backward()
    assert empty.grad is not None
