"""The ReLU that can raise negative inputs, compared with a plain ReLU."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from panformer_cli.models.layers.waking_relu import relu


def test_a_waking_slope_does_not_change_values() -> None:
    x = torch.cat(
        [torch.randn(10_000, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, -0.0, 1e30, -1e30])]
    )
    for slope in (0.0, 0.1, 0.5):
        assert torch.equal(relu(x.clone().requires_grad_(), slope), F.relu(x))
        assert torch.equal(relu(x, slope), F.relu(x))


def test_negative_inputs_get_only_gradients_that_would_raise_them() -> None:
    x = torch.tensor([-3.0, -1e-3, -2.0, 1e-3, 2.0], requires_grad=True)
    upstream = torch.tensor([1.0, -2.0, -4.0, 3.0, -4.0])
    for slope, expected in ((0.25, [0.0, -0.5, -1.0, 3.0, -4.0]), (0.0, [0.0, 0.0, 0.0, 3.0, -4.0])):
        (gradient,) = torch.autograd.grad(relu(x, slope), x, upstream)
        torch.testing.assert_close(gradient, torch.tensor(expected))
