"""Shared functions, compared with their formulas."""

from __future__ import annotations

import math

import torch

from panformer_cli.models.layers.common import inverse_sigmoid, may_be_true, xavier_matrices


def test_inverse_sigmoid_inverts_and_is_clamped_at_the_ends() -> None:
    x = torch.tensor([0.2, 0.5, 0.9])
    torch.testing.assert_close(inverse_sigmoid(x), torch.tensor([math.log(0.25), 0.0, math.log(9.0)]))
    edge = math.log(1e5)
    torch.testing.assert_close(
        inverse_sigmoid(torch.tensor([0.0, -1.0, 1.0, 2.0])), torch.tensor([-edge, -edge, edge, edge])
    )


def test_xavier_initializes_matrices_and_keeps_vectors() -> None:
    linear = torch.nn.Linear(30, 50)
    bias = linear.bias.clone()
    xavier_matrices(linear)
    limit = math.sqrt(6 / 80)
    assert 0.95 * limit < linear.weight.abs().max() <= limit
    torch.testing.assert_close(linear.bias, bias, rtol=0, atol=0)


def test_a_mask_may_be_true_if_one_element_is() -> None:
    mask = torch.zeros(2, 3, dtype=torch.bool)
    assert not may_be_true(mask)
    mask[1, 2] = True
    assert may_be_true(mask)
