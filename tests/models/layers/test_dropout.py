"""Dropout, compared with that of PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from panformer_cli.models.layers import dropout as dropout_module
from panformer_cli.models.layers.dropout import Dropout, DropoutTape
from panformer_cli.models.layers.feedforward import FeedForward
from panformer_cli.models.layers.recompute import recompute_in_backward


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tape_repeats_dropout_in_order_and_keeps_a_bit_per_element(dtype: torch.dtype) -> None:
    tape, x = DropoutTape(), torch.randn(3, 50, 8).to(dtype).requires_grad_()
    dropout, other = Dropout(0.5), Dropout(0.2)
    turned = x.transpose(1, 2)  # the memory layout is not that of the shape
    with tape.recorded():
        first = [dropout(x), other(turned), dropout.after_relu_(x * 1.0)]
    assert [bits.nbytes for bits in tape._bits] == [150, 150, 150]
    state = torch.get_rng_state()
    for _ in range(2):
        with tape.replayed():
            again = [dropout(x), other(turned), dropout.after_relu_(x * 1.0)]
        assert all(map(torch.equal, first, again))
        assert [each.stride() for each in first] == [each.stride() for each in again]
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(dropout(x), first[0])  # after the tape


def test_a_recomputed_feedforward_draws_its_random_numbers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, ...]] = []
    draw = dropout_module._random

    def counted(x: Tensor, p: float) -> Tensor:
        drawn.append(tuple(x.shape))
        return draw(x, p)

    monkeypatch.setattr(dropout_module, "_random", counted)
    plain, recomputed = (FeedForward(4, 16, 0.3) for _ in range(2))
    recomputed.load_state_dict(plain.state_dict())
    recompute_in_backward([recomputed])
    x, gradients = torch.randn(2, 5, 4), []
    for module in (plain, recomputed):
        torch.manual_seed(1)
        drawn.clear()
        output = module.train()(x.clone().requires_grad_()).sum()
        for _ in range(2):  # the second backward pass runs the module once more
            module.zero_grad()
            output.backward(retain_graph=True)
        assert drawn == [(2, 5, 16), (2, 5, 4)]
        gradients.append([parameter.grad for parameter in module.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
