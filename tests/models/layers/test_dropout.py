"""Dropout, compared with that of PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from panformer_cli.models.layers.dropout import Dropout


def outcome(dropout: torch.nn.Module, x: Tensor, relu: bool, ours: bool) -> tuple[Tensor, Tensor]:
    """Return output and gradient, weighted so that every element has another one."""
    torch.manual_seed(3)
    x = x.clone().requires_grad_()
    copy = x * 1.0  # a ReLU in place needs a tensor that is not a leaf
    if not relu:
        output = dropout(copy)
    elif ours:
        assert isinstance(dropout, Dropout)
        output = dropout.after_relu_(copy)
    else:
        output = dropout(copy.relu_())
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    assert x.grad is not None
    return output.detach(), x.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_values_and_gradients_are_those_of_torch(p: float, relu: bool, dtype: torch.dtype) -> None:
    x = torch.randn(3, 50, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = outcome(torch.nn.Dropout(p), x, relu, ours=False)
    actual = outcome(Dropout(p), x, relu, ours=True)
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


def test_evaluation_drops_nothing() -> None:
    x = torch.randn(4, 5)
    assert torch.equal(Dropout(0.5).eval()(x), x)


def test_one_byte_per_element_is_kept_and_nothing_more_after_a_relu() -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        x = torch.randn(7, 9, requires_grad=True)
        Dropout(0.3)(x)
        assert [tensor.dtype for tensor in kept] == [torch.bool]
        kept.clear()
        output = Dropout(0.3).after_relu_(x * 1.0)
    assert output.data_ptr() in {tensor.data_ptr() for tensor in kept}
    assert {tensor.untyped_storage().data_ptr() for tensor in kept} == {output.untyped_storage().data_ptr()}
